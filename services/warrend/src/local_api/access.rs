//! Who may do what: the one function that every request passes.

/// The process at the other end of the socket, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Root, the daemon's own user (unless that is root) and the operator write; every local user reads.
pub fn may(caller: Caller, access: Access, own_uid: u32, operator_uid: Option<u32>) -> bool {
    match access {
        Access::Read => true,
        Access::Write => caller.uid == 0 || caller.uid == own_uid || Some(caller.uid) == operator_uid,
    }
}

/// The uid of a user named in the preferences; `None` if there is no such user.
pub fn uid_of(name: &str) -> Option<u32> {
    if name.is_empty() {
        return None;
    }
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_and_only_root_owner_and_operator_write() {
        for (uid, operator, writes) in [
            (0, None, true),
            (1000, None, true),
            (1001, None, false),
            (1001, Some(1001), true),
            (1002, Some(1001), false),
        ] {
            let caller = Caller { uid };
            assert!(may(caller, Access::Read, 1000, operator), "{uid}");
            assert_eq!(may(caller, Access::Write, 1000, operator), writes, "{uid}");
        }
    }

    #[test]
    fn a_user_who_does_not_exist_has_no_rights() {
        assert_eq!(uid_of(""), None);
        assert_eq!(uid_of("no-such-user-of-this-machine"), None);
        assert_eq!(uid_of("root"), Some(0));
    }
}
