//! Whom the operator lets in.

use crate::profile::Profile;

/// Every list that is not empty must have a match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Domains of e-mail addresses.
    pub domains: Vec<String>,
    /// E-mail addresses.
    pub users: Vec<String>,
    /// Groups; one of them is enough.
    pub groups: Vec<String>,
}

/// Why somebody may not in. Each is for the person and for the log, so it does not say who.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// None of the domains.
    #[error("the e-mail address of this account is of no domain that may join this network")]
    Domain,
    /// None of the people.
    #[error("this account is not on the list of people who may join this network")]
    User,
    /// None of the groups.
    #[error("this account is in none of the groups that may join this network")]
    Group,
}

impl Rules {
    /// Whether this person may join. Addresses are compared without regard to case, groups to the letter.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub fn admit(&self, profile: &Profile) -> Result<(), NotAdmitted> {
        let email = profile.email.as_str();
        // What stands after the last @ is the domain; no address, no domain.
        let domain = email.rsplit_once('@').map(|(_, domain)| domain);
        let is_one = |list: &[String], text: &str| list.iter().any(|one| one.eq_ignore_ascii_case(text));
        if !self.domains.is_empty() && !domain.is_some_and(|domain| is_one(&self.domains, domain)) {
            return Err(NotAdmitted::Domain);
        }
        if !self.users.is_empty() && (email.is_empty() || !is_one(&self.users, email)) {
            return Err(NotAdmitted::User);
        }
        if !self.groups.is_empty() && !self.groups.iter().any(|group| profile.groups.contains(group)) {
            return Err(NotAdmitted::Group);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(domains: &[&str], users: &[&str], groups: &[&str], email: &str, expect: bool) {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let rules = Rules { domains: list(domains), users: list(users), groups: list(groups) };
        let profile = Profile { email: email.into(), groups: ["dev".to_owned()].into(), ..Profile::default() };
        assert_eq!(rules.admit(&profile).is_ok(), expect, "{email:?} by {rules:?}");
    }

    #[test]
    fn every_list_that_is_there_must_match() {
        check(&[], &[], &[], "", true);
        check(&["example.net"], &[], &[], "Ann@Example.NET", true);
        check(&["example.net"], &[], &[], "ann@evil.example", false);
        check(&["example.net"], &[], &[], "ann@example.net@evil.example", false);
        check(&["example.net"], &[], &[], "ann@sub.example.net", false);
        check(&["example.net"], &[], &[], "ann@notexample.net", false);
        check(&["example.net"], &[], &[], "", false);
        check(&[""], &[], &[], "", false);
        check(&[], &["ann@example.net"], &[], "ANN@example.net", true);
        check(&[], &["ann@example.net"], &[], "bob@example.net", false);
        check(&[], &[""], &[], "", false);
        check(&[], &[], &["dev", "ops"], "", true);
        check(&[], &[], &["Dev"], "", false);
        check(&["example.net"], &["ann@example.net"], &["ops"], "ann@example.net", false);
    }
}
