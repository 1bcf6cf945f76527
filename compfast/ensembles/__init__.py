"""From a configuration to members: the grid, the table of members, their schedules."""
