"""What a process would make once, made before others are forked from this one: as they save a text encoder."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("bert")
