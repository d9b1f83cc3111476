//! People as the server shows them. control-protocol.md §8.10.

use warren_crypto::UnixTime;

use crate::object::wire_object;
use crate::{LoginId, UserId};

wire_object! {
    /// Who owns nodes, for display.
    pub struct UserProfile {
        [always] pub id: UserId => "ID",
        /// Looks like an e-mail address.
        [always] pub login_name: String => "LoginName",
        [always] pub display_name: String => "DisplayName",
        [omit] pub profile_pic_url: String => "ProfilePicURL",
        [omit] pub groups: Vec<String> => "Groups",
    }
}

wire_object! {
    /// The owning user in a registration's answer.
    pub struct User {
        [always] pub id: UserId => "ID",
        [always] pub display_name: String => "DisplayName",
        [omit] pub profile_pic_url: String => "ProfilePicURL",
        [time] pub created: Option<UnixTime> => "Created",
    }
}

wire_object! {
    /// The identity that signed in.
    pub struct Login {
        [always] pub id: LoginId => "ID",
        [always] pub provider: String => "Provider",
        [always] pub login_name: String => "LoginName",
        [always] pub display_name: String => "DisplayName",
        [omit] pub profile_pic_url: String => "ProfilePicURL",
    }
}
