"""Three ways through: `measure` clips, `judge` what a known world shows, `report` what was found."""
