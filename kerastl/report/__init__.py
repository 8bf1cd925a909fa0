"""Results of a run, for people and programs: `page` in words and numbers, `plots` in pictures."""
