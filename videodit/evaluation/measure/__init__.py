"""What is measured of clips: frames as a stream, measures of them and of whole clips, networks, distances of sets."""
