//! Text in columns, for the lists shown after start-up.

use std::fmt::Write;

/// Draws a table with a frame; each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).chain(["+\n".into()]).collect();
    let mut text = rule.clone();
    draw(&head, &widths, &mut text);
    text.push_str(&rule);
    for row in rows {
        draw(row, &widths, &mut text);
    }
    if !rows.is_empty() {
        text.push_str(&rule);
    }
    text
}

fn draw(row: &[String], widths: &[usize], text: &mut String) {
    for (cell, width) in row.iter().zip(widths) {
        let _ = write!(text, "| {cell:width$} ");
    }
    text.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["digits".into(), "1".into()], ["a".into(), "12".into()]];
        let expect = "\
+--------+---------+
| Model  | Version |
+--------+---------+
| digits | 1       |
| a      | 12      |
+--------+---------+
";
        assert_eq!(table(["Model", "Version"], &rows), expect);
    }

    #[test]
    fn without_rows_only_the_head_is_shown() {
        assert_eq!(table(["Model"], &[]), "+-------+\n| Model |\n+-------+\n");
    }
}
