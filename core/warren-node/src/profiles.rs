//! Commands about profiles: list, new, switch, delete.

use std::time::Instant;

use crate::Node;
use crate::actions::{CommandError, Notice, Reply};
use crate::profile::{Profile, ProfileId};

/// More than a person has; a bound for a script that went wrong.
const MOST_PROFILES: usize = 64;

impl Node {
    pub(crate) fn list_profiles(&self) -> Reply {
        Reply::Profiles(self.state.profiles.iter().map(|profile| profile.summary(&self.state.active)).collect())
    }

    /// Makes an empty profile and switches to it; an empty one that is there already serves.
    pub(crate) fn new_profile(&mut self, now: Instant) -> Result<Reply, CommandError> {
        let unused =
            self.state.profiles.iter().find(|profile| !profile.keys.registered && profile.prefs == Default::default());
        let id = match unused {
            Some(profile) => profile.id.clone(),
            None if self.state.profiles.len() >= MOST_PROFILES => {
                return Err(CommandError::TooManyProfiles(MOST_PROFILES));
            }
            None => {
                let id = self.unused_id();
                let profile = Profile::new(id.clone(), &mut self.random);
                self.state.profiles.push(profile);
                id
            }
        };
        self.switch_profile(&id, now)
    }

    fn unused_id(&mut self) -> ProfileId {
        loop {
            let id = ProfileId(format!("{:04x}", self.random.below(0x1_0000)));
            if self.state.profiles.iter().all(|profile| profile.id != id) {
                return id;
            }
        }
    }

    pub(crate) fn switch_profile(&mut self, id: &ProfileId, now: Instant) -> Result<Reply, CommandError> {
        let index =
            self.state.profiles.iter().position(|profile| profile.id == *id).ok_or(CommandError::NoSuchProfile)?;
        if index != self.active {
            self.close_control();
            self.activate(index, now);
        }
        Ok(Reply::Done)
    }

    fn activate(&mut self, index: usize, now: Instant) {
        self.active = index;
        self.state.active = self.state.profiles[index].id.clone();
        self.forget_conversation();
        self.use_identity(now);
        self.persist_now();
        self.notices.push_back(Notice::Profile(self.state.active.clone()));
        self.notices.push_back(Notice::Prefs(Box::new(self.profile().prefs.clone())));
    }

    /// Forgets a network; the last profile is replaced by an empty one.
    pub(crate) fn delete_profile(&mut self, id: &ProfileId, now: Instant) -> Result<Reply, CommandError> {
        let index =
            self.state.profiles.iter().position(|profile| profile.id == *id).ok_or(CommandError::NoSuchProfile)?;
        if index == self.active {
            self.close_control();
            self.state.profiles.remove(index);
            if self.state.profiles.is_empty() {
                let id = self.unused_id();
                let profile = Profile::new(id, &mut self.random);
                self.state.profiles.push(profile);
            }
            self.activate(0, now);
        } else {
            self.state.profiles.remove(index);
            self.active -= usize::from(index < self.active);
            self.persist_now();
        }
        Ok(Reply::Done)
    }
}
