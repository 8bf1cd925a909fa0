"""Asks models that TensorFlow Serving serves, over REST or gRPC; needs no TensorFlow for the former."""
