"""The world of living emoji: Microsoft's Fluent set as transparent clips, its names, and what is said of each.

`things` knows names, skin tones, keywords and what is held out; `art` reads the pictures; `scenes` says who stands
where, how it moves and in which words; `make` writes the set of files that a model is trained on. No art is kept here:
names.jsonl holds facts (names, tones, keywords, after microsoft/fluentui-emoji-animated, MIT: LICENSE.txt).
"""
