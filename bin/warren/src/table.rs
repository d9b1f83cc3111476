//! Tables for a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::safe;

/// Columns aligned by two spaces, no lines: what scripts of the field cut with `awk`. Cells are made safe, whoever wrote them.
pub fn plain(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| safe::line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_in_its_cell() {
        let rows = [vec!["a\u{1b}[2J\nb".to_owned(), "x\u{202e}".to_owned()]];
        let text = plain(&["Name", "OS"], rows);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']));
    }
}
