"""What is measured, one module per question. Each has `measure(table, options)` and a first line that is its help text."""
