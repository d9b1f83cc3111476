//! Texts of others, made safe for a terminal: machines, people and servers choose what they are called.

use std::borrow::Cow;

use serde::Serialize;

/// One line in which nothing commands the terminal or changes the direction of what follows; what would is shown as `�`.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, is_unsafe)
}

/// The same with line breaks and tabs.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_unsafe(c) && !matches!(c, '\n' | '\t'))
}

/// JSON over several lines, in which the same characters are escaped: the value stays as it is.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(escaped)
}

/// JSON on one line.
pub fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(escaped)
}

fn escaped(json: String) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of texts JSON has no such character but line breaks. All of them fit one escape.
        if is_unsafe(c) && c != '\n' {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

fn replaced(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&is_bad) { Cow::Owned(text.replace(is_bad, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Control characters, those that turn the direction of writing, breaks of lines and paragraphs, and letters that take
/// no place. Joiners stay, for there are scripts that need them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\u{1b}]0;x\u{7}\u{9b}31m\u{202e}b\u{2066}\r\nc\td\u{7f}";

    #[test]
    fn no_text_commands_the_terminal_or_turns_it_around() {
        for text in [line(NASTY), lines(NASTY)] {
            assert!(!text.contains(|c: char| is_unsafe(c) && !matches!(c, '\n' | '\t')), "{text:?}");
        }
        assert!(!line(NASTY).contains('\n') && lines(NASTY).contains("\nc\td"));
        for plain in ["Büro-PC 7", "می\u{200c}خواهم", "👩\u{200d}🔧"] {
            assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
        }
    }

    #[test]
    fn json_means_the_same_and_commands_nothing() {
        let text = json(&[NASTY]).expect("JSON");
        assert!(!text.contains(|c: char| is_unsafe(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).expect("JSON"), [NASTY]);
    }
}
