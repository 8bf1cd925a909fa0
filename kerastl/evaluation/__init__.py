"""What a model is worth on data that it has not seen: `kerastl.evaluation.metrics`."""
