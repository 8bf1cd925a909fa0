"""What is particular to images: encoded bytes to pixels, and random changes to pixels."""
