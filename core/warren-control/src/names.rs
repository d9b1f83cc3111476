//! Names of nodes, users and tags: what is accepted as it is, and what is made of a machine's host name.

use warren_wire::NodeName;

/// One DNS label as we hand it out; see [`NodeName`].
pub fn is_label(text: &str) -> bool {
    NodeName::new(text).is_ok()
}

/// Labels joined by dots, together short enough that a label can stand in front (253 − 64).
pub fn is_domain(text: &str) -> bool {
    text.len() <= 189 && text.split('.').all(is_label)
}

/// `tag:` and a name that begins with a letter: letters, digits and hyphens, at most 63 bytes after the colon.
pub fn is_tag(text: &str) -> bool {
    text.strip_prefix("tag:").is_some_and(|name| {
        name.len() <= 63
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Names of people: a short one, of letters, digits, `-`, `_` and `.` and with a letter first, or an e-mail address as
/// mail has them (RFC 5322, dot-atom), but for `*`, `/`, `|` and backticks; at most 255 bytes.
pub fn is_user_name(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let local = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'+-=?^_{}~.".contains(&b))
    };
    text.len() <= 255
        && match text.split_once('@') {
            None => text.starts_with(|c: char| c.is_ascii_alphabetic()) && plain(text),
            Some((name, domain)) => local(name) && plain(domain),
        }
}

/// Names that programs ask for without anybody having meant a machine: with the mesh's domain searched, whoever had one
/// would be asked for proxies and tunnels by every machine (RFC 6761 §6.3; automatic proxy discovery; RFC 5214).
const RESERVED: [&str; 3] = ["localhost", "wpad", "isatap"];

/// Whether no node may be called so.
pub fn is_reserved(label: &str) -> bool {
    RESERVED.contains(&label)
}

/// Makes a label of whatever a machine calls itself; `node` if nothing is left (control-protocol.md §11.2), or if the
/// name is nobody's to have.
pub fn from_hostname(hostname: &str) -> NodeName {
    let name = NodeName::sanitise(hostname);
    if is_reserved(name.as_str()) { NodeName::sanitise("") } else { name }
}

/// The first of `base`, `base-1`, `base-2`, … that is free.
pub fn first_free(base: &NodeName, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (1..).map(|number| base.numbered(number));
    let mut candidates = std::iter::once(base.clone()).chain(numbered);
    let free = candidates.find(|name| !is_taken(name.as_str()));
    free.map_or_else(|| base.to_string(), |name| name.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_taken_name_gets_the_first_free_number() {
        let taken = ["web", "web-1", "web-3"];
        let free = |base: &str| first_free(&from_hostname(base), |name| taken.contains(&name));
        assert_eq!((free("web"), free("db")), ("web-2".to_owned(), "db".to_owned()));
    }

    #[test]
    fn a_name_that_programs_ask_for_is_nobodys() {
        for hostname in ["localhost", "LocalHost.localdomain", "wpad", "isatap.lan"] {
            assert_eq!(from_hostname(hostname).as_str(), "node", "{hostname}");
        }
        assert_eq!(from_hostname("localhost-2").as_str(), "localhost-2");
    }

    #[test]
    fn tags_and_users_have_a_grammar() {
        for good in ["tag:web", "tag:a1-B"] {
            assert!(is_tag(good), "{good}");
        }
        for bad in ["web", "tag:", "tag:1a", "tag:a b", "tag:a,b", "tag:ä"] {
            assert!(!is_tag(bad), "{bad}");
        }
        for good in
            ["ann", "ann.b_c-1", "ann@example.net", "ann+mesh@example.net", "o'brien@example.net", "7@example.net"]
        {
            assert!(is_user_name(good), "{good}");
        }
        for bad in [
            "",
            "1ann",
            "a b",
            "a@b@c",
            "ann@",
            "@ann",
            "ann/../x",
            "tag:x",
            "ann+x",
            "*@example.net",
            "+x@example.net",
            "a/b@c",
        ] {
            assert!(!is_user_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_machine_calls_itself_its_name_is_a_label(hostname in ".{0,300}", clashes in 0_usize..40) {
            let base = from_hostname(&hostname);
            let mut taken = std::collections::BTreeSet::new();
            for _ in 0..=clashes {
                let name = first_free(&base, |name| taken.contains(name));
                prop_assert!(is_label(&name), "{name:?}");
                prop_assert!(taken.insert(name));
            }
        }
    }
}
