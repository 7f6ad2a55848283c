"""Frames and files: reading what is on screen at given times, writing clips, looking at them side by side."""

from videodit.video.index import IMAGE_SUFFIXES, VIDEO_SUFFIXES, UnsuitableError, VideoError
from videodit.video.reader import VideoInfo, frame_times, probe, read_clip, read_frames, stream_frames
from videodit.video.writer import OUTPUT_SUFFIXES, check_writable, contact_sheet, read_metadata, write_video

__all__ = [
    "IMAGE_SUFFIXES",
    "OUTPUT_SUFFIXES",
    "VIDEO_SUFFIXES",
    "UnsuitableError",
    "VideoError",
    "VideoInfo",
    "check_writable",
    "contact_sheet",
    "frame_times",
    "probe",
    "read_clip",
    "read_frames",
    "read_metadata",
    "stream_frames",
    "write_video",
]
