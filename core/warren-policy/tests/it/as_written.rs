//! The operators' page of policies as people write them, run.

use warren_policy::Policy;

const PAGE: &str = include_str!("../../../../docs/operators/policies-as-written.md");

struct Entry<'p> {
    file: &'p str,
    text: &'p str,
    answer: &'p str,
}

/// A name in backquotes on a line of its own, a block with the file, a block with the answer.
fn entries(page: &str) -> Vec<Entry<'_>> {
    let sections = page.split("\n## ").skip(1);
    sections
        .map(|section| {
            let name = section.lines().skip(1).find(|line| line.starts_with('`')).expect("a file name");
            let blocks: Vec<&str> = section.split("\n```").collect();
            let block = |start: &str| {
                let block = blocks.iter().find_map(|block| block.strip_prefix(start)).expect("a block");
                block.trim_start_matches('\n')
            };
            let text = ["hujson\n", "yaml\n"].iter().find(|kind| blocks.iter().any(|block| block.starts_with(**kind)));
            Entry { file: name.trim_matches('`'), text: block(text.expect("a policy")), answer: block("text\n") }
        })
        .collect()
}

#[test]
fn policies_as_written() {
    let entries = entries(PAGE);
    assert!(entries.len() >= 12, "{}", entries.len());
    let mut wrong = Vec::new();
    for Entry { file, text, answer } in entries {
        let (Ok(ours) | Err(ours)) = Policy::check(file, text);
        if ours != answer {
            wrong.push(format!("{file} is answered\n{ours}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
