//! Offices that people hold in the network, for policies to name: `autogroup:admin` and its like.
//!
//! A role gives no right over the control server: operators are those whom its doors let in.

use std::fmt;
use std::str::FromStr;

use warren_crypto::UnixTime;
use warren_policy::{NoRole, Role};
use warren_wire::UserId;

use crate::command::{Answer, Refusal};
use crate::event::Event;
use crate::rows::User;
use crate::staged::Staged;

/// What somebody is in the network. At most one person is the owner. `autogroup:member` is everybody, whatever their role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserRole {
    /// Has an office.
    Office(Role),
    /// Has devices here, and no office.
    #[default]
    Member,
}

impl UserRole {
    /// Whose network it is.
    pub const OWNER: Self = Self::Office(Role::Owner);

    /// Each once.
    pub fn all() -> impl Iterator<Item = Self> {
        Role::ALL.into_iter().map(Self::Office).chain([Self::Member])
    }

    /// As it is written everywhere; the hosted service's spelling.
    pub fn as_str(self) -> &'static str {
        self.office().map_or("member", Role::as_str)
    }

    pub(crate) fn office(self) -> Option<Role> {
        match self {
            Self::Office(role) => Some(role),
            Self::Member => None,
        }
    }
}

impl fmt::Display for UserRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UserRole {
    type Err = NoRole;

    fn from_str(text: &str) -> Result<Self, NoRole> {
        if text == "member" { Ok(Self::Member) } else { text.parse().map(Self::Office) }
    }
}

impl Staged {
    pub(crate) fn set_role(&mut self, id: UserId, role: UserRole, now: UnixTime) -> Result<Answer, Refusal> {
        let user = self.user(id)?;
        if user.role == role {
            return Ok(Answer::User(user));
        }
        if role == UserRole::OWNER
            && let Some(owner) = self.state.registry.users().find(|user| user.role == UserRole::OWNER)
        {
            let (name, what_to_do) = (&owner.name, "give that one another role first");
            return Err(Refusal::Conflict(format!("user {name} is the owner, and there is only one; {what_to_do}")));
        }
        self.note(now, format!("user:{}", id.0), format!("{} to {role}", user.role));
        let user = self.put_user(User { role, ..User::clone(&user) });
        self.events.push(Event::UserChanged(id));
        Ok(Answer::User(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_is_read_as_it_is_written() {
        for role in UserRole::all() {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert_eq!(UserRole::all().count(), 7);
        for bad in ["", "Owner", "it_admin", "superuser", " member"] {
            assert!(bad.parse::<UserRole>().is_err(), "{bad:?}");
        }
    }
}
