"""Three ways through: `measure` clips, `judge` what a known world shows, `report` what was found.

`suite` is the whole of it for clips: measured, and what was found of them.
"""
