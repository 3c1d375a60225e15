"""How each kind of result is drawn: scales, panels, colors and markers follow from roles, subjects and numbers."""
