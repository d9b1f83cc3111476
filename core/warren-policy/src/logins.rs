//! The field `users` of an `ssh` rule: the local users as whom a shell may be opened.

use std::collections::BTreeMap;

/// Anybody but root.
const NON_ROOT: &str = "autogroup:nonroot";
const ROOT: &str = "root";

/// Local users that one rule allows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Logins {
    /// As on the wire, for every source alike: asked user → local user; `*` any, `=` the same, empty refuses.
    pub(crate) common: BTreeMap<String, String>,
    /// Domains of `localpart:*@domain`: who has an e-mail address there may be what stands before its `@`.
    domains: Vec<String>,
}

impl Logins {
    /// Adds one word of the list; gives the domain if it names one.
    ///
    /// A word is the name of a local user unless it is one of the few forms that mean more. Words that look like such a
    /// form and are not (`autogroup:member`, `localpart:ann`) are names too, as in the field: nobody has such a user.
    ///
    /// # Errors
    /// The field's own words.
    pub(crate) fn add(&mut self, word: &str) -> Result<Option<String>, String> {
        let word = word.trim();
        if word.is_empty() || word == "*" {
            return Err(format!("user {word:?} is not valid"));
        }
        // Without an entry of its own, root would fall under `*`.
        self.common.entry(ROOT.to_owned()).or_default();
        if word == NON_ROOT {
            self.common.insert("*".to_owned(), "=".to_owned());
            return Ok(None);
        }
        match word.strip_prefix("localpart:*@") {
            Some(domain) if !domain.is_empty() => {
                self.domains.push(domain.to_owned());
                Ok(Some(domain.to_owned()))
            }
            _ => {
                self.common.insert(word.to_owned(), word.to_owned());
                Ok(None)
            }
        }
    }

    /// Whether what is allowed depends on who asks.
    pub(crate) fn is_personal(&self) -> bool {
        !self.domains.is_empty()
    }

    /// The local user that somebody with this e-mail address may be beside the common ones.
    ///
    /// Never root, whoever holds `root@` in the domain, and never a text that means more than itself on the wire.
    pub(crate) fn local_part<'e>(&self, email: &'e str) -> Option<&'e str> {
        let (local, domain) = email.rsplit_once('@')?;
        let is_named = self.domains.iter().any(|named| named.eq_ignore_ascii_case(domain));
        (is_named && !["", ROOT, "*", "="].contains(&local)).then_some(local)
    }

    /// Whether everybody whom the rule matches may be this local user.
    pub(crate) fn allows(&self, user: &str) -> bool {
        let local = self.common.get(user).or_else(|| self.common.get("*"));
        !user.is_empty() && local.is_some_and(|local| !local.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(words: &[&str]) -> Logins {
        let mut logins = Logins::default();
        for word in words {
            logins.add(word).expect("a valid word");
        }
        logins
    }

    fn common(words: &[&str]) -> String {
        let logins = logins(words);
        logins.common.iter().map(|(asked, local)| format!("{asked}={local}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn root_is_refused_unless_it_is_listed() {
        assert_eq!(common(&["ubuntu"]), "root= ubuntu=ubuntu");
        assert_eq!(common(&["ubuntu", "root"]), "root=root ubuntu=ubuntu");
        assert_eq!(common(&["root", "autogroup:nonroot"]), "*== root=root");
        assert_eq!(common(&["autogroup:nonroot"]), "*== root=");
        assert_eq!(common(&["localpart:*@example.com"]), "root=");
    }

    #[test]
    fn space_around_a_name_is_no_part_of_it_and_strange_names_are_names() {
        assert_eq!(common(&[" root", "\tann "]), "ann=ann root=root");
        for word in
            ["autogroup:member", "group:dev", "localpart:ann", "localpart:ann@example.com", "localpart:*@", "🚀"]
        {
            assert_eq!(common(&[word]).split(' ').count(), 2, "{word}");
            assert!(logins(&[word]).allows(word) && !logins(&[word]).is_personal(), "{word}");
        }
    }

    #[test]
    fn nobody_and_everybody_are_not_names() {
        for word in ["", " ", "*", " * "] {
            let trimmed = word.trim();
            assert_eq!(Logins::default().add(word), Err(format!("user {trimmed:?} is not valid")));
        }
    }

    #[test]
    fn what_is_asked_is_allowed_by_name_or_by_nonroot() {
        let named = logins(&["ubuntu"]);
        assert!(named.allows("ubuntu") && !named.allows("ann") && !named.allows("root") && !named.allows(""));
        let anybody = logins(&["autogroup:nonroot"]);
        assert!(anybody.allows("ann") && !anybody.allows("root") && !anybody.allows(""));
    }

    #[test]
    fn a_local_part_is_what_stands_before_the_last_at_of_an_address_in_the_domain() {
        let logins = logins(&["localpart:*@example.com"]);
        assert_eq!(logins.local_part("ann.b@example.com"), Some("ann.b"));
        assert_eq!(logins.local_part("Ann@EXAMPLE.com"), Some("Ann"));
        assert_eq!(logins.local_part("\"a@b\"@example.com"), Some("\"a@b\""));
        assert_eq!(logins.local_part("ann@sub.example.com"), None);
        assert_eq!(logins.local_part("ann"), None);
    }

    #[test]
    fn nobody_becomes_root_or_everybody_by_an_address() {
        let logins = logins(&["localpart:*@example.com"]);
        for email in ["root@example.com", "*@example.com", "=@example.com", "@example.com"] {
            assert_eq!(logins.local_part(email), None, "{email}");
        }
    }
}
