"""The figures of a report, and the one look they share. Pure functions: pyplot and its state are not involved."""
