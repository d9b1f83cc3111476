//! People, as an operator makes, renames and forgets them.

use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_wire::{NodeId, UserId, is_deceptive};

use crate::command::{Answer, Refusal};
use crate::event::Event;
use crate::names;
use crate::register::next;
use crate::rows::{KeyId, RowChange, User};
use crate::staged::Staged;

impl Staged {
    /// `wish` has everything but the id and the subject.
    pub(crate) fn create_user(&mut self, wish: User) -> Result<Answer, Refusal> {
        self.check_user_name(&wish.name, None)?;
        if !wish.email.is_empty()
            && let Some(other) = self.state.registry.users().find(|user| user.is_called(&wish.email))
        {
            return Err(Refusal::Conflict(format!("{} is the address of user {} here", wish.email, other.name)));
        }
        for (what, text) in
            [("display name", &wish.display_name), ("e-mail", &wish.email), ("picture", &wish.picture_url)]
        {
            if text.len() > 1024 || text.chars().any(is_deceptive) {
                return Err(Refusal::Invalid(format!("the {what} is too long or has control or invisible characters")));
            }
        }
        let id = UserId(self.count(|facts| next(&mut facts.next_user)));
        self.note(wish.created, format!("user:{}", id.0), wish.name.clone());
        let user = self.put_user(User { id, subject: id.0.to_string(), ..wish });
        self.events.push(Event::UserAdded(id));
        Ok(Answer::User(user))
    }

    pub(crate) fn rename_user(&mut self, id: UserId, name: String, now: UnixTime) -> Result<Answer, Refusal> {
        let user = self.user(id)?;
        if user.name == name && !user.self_named {
            return Ok(Answer::User(user));
        }
        if user.name != name {
            self.check_user_name(&name, Some(id))?;
        }
        self.note(now, format!("user:{}", id.0), format!("{} to {name}", user.name));
        let user = self.put_user(User { name, self_named: false, ..User::clone(&user) });
        self.events.push(Event::UserChanged(id));
        Ok(Answer::User(user))
    }

    /// Refused while the person has nodes, as in the field, unless it is said that these go too.
    pub(crate) fn delete_user(&mut self, id: UserId, with_nodes: bool, now: UnixTime) -> Result<Answer, Refusal> {
        let user = self.user(id)?;
        let theirs = self.state.registry.nodes().filter(|node| node.owner.user() == Some(id));
        let nodes: Vec<NodeId> = theirs.map(|node| node.id).collect();
        if !nodes.is_empty() && !with_nodes {
            let count = nodes.len();
            return Err(Refusal::Conflict(format!("user {} still has {count} node(s); delete them first", user.name)));
        }
        let keys: Vec<KeyId> =
            self.state.registry.keys().filter(|key| key.user == Some(id)).map(|key| key.id).collect();
        self.note(
            now,
            format!("user:{}", id.0),
            format!("{}, {} join key(s) and {} node(s)", user.name, keys.len(), nodes.len()),
        );
        for node in nodes {
            self.remove_node(node);
        }
        for key in keys {
            self.remove_key(key);
        }
        if self.state.registry.sign_in(id).is_some() {
            self.rows.push(RowChange::DeleteSignIn(id));
        }
        self.state.registry.remove_user(id);
        self.rows.push(RowChange::DeleteUser(id));
        self.events.push(Event::UserRemoved(id));
        Ok(Answer::Done)
    }

    pub(crate) fn user(&self, id: UserId) -> Result<Arc<User>, Refusal> {
        let missing = || Refusal::NotFound { kind: "user", name: id.0.to_string() };
        self.state.registry.user(id).cloned().ok_or_else(missing)
    }

    /// Whether `of`, or somebody new, may be called this: what others are called, or have as their address, is theirs.
    pub(crate) fn check_user_name(&self, name: &str, of: Option<UserId>) -> Result<(), Refusal> {
        if !names::is_user_name(name) {
            let rule = "a short name of letters, digits, - _ . that begins with a letter, or an e-mail address";
            return Err(Refusal::Invalid(format!("{name:?} cannot be a user name: {rule}")));
        }
        let is_anothers = self.state.registry.users().any(|user| Some(user.id) != of && user.is_called(name));
        if is_anothers {
            return Err(Refusal::Taken { what: "user name", value: name.to_owned() });
        }
        Ok(())
    }
}
