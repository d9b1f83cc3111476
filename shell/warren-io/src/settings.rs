//! What an operator says about a service: a file, the environment over it, flags over both.
//!
//! [`settings!`](crate::settings!) makes of one table the struct that each of the three sources fills, with `None` where a
//! source is silent. A key `server_url` of a service with the prefix `WARREN_CONTROL_` is
//!
//! ```text
//! server_url = "…"            in the file        (or [server] url = "…": a section is a beginning that keys share)
//! WARREN_CONTROL_SERVER_URL   in the environment
//! ```

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// How a setting is written where there is only text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`; in a file, a section of that name turns it on.
    Switch,
    /// Separated by commas.
    List,
}

/// All keys of a service.
pub type Keys = [(&'static str, Kind)];

/// What is wrong with what was said. Each names the place and the key.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The file.
    #[error("read configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("configuration {}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and complaint.
        reason: String,
    },
    /// A key that nobody knows.
    #[error("{place}: there is no setting {key:?}{}", nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// File or variable.
        place: String,
        /// As written.
        key: String,
        /// The most similar one.
        nearest: Option<&'static str>,
    },
    /// A value of the wrong kind.
    #[error("{place}: {reason}")]
    Value {
        /// File or variable, and key.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

/// One row gives the field, its type and its [`Kind`]; together they are a struct, its keys and [`over`].
///
/// [`over`]: #method.over
#[macro_export]
macro_rules! settings {
    ($(#[$outer:meta])* $table:ident as $keys:ident; $($(#[$doc:meta])* $name:ident: $type:ty, $kind:ident;)*) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
        #[serde(default)]
        pub struct $table {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        const $keys: &$crate::settings::Keys = &[$((stringify!($name), $crate::settings::Kind::$kind),)*];

        impl $table {
            /// What `self` says, and where it is silent what `lower` says.
            #[must_use]
            pub fn over(self, lower: Self) -> Self {
                Self { $($name: self.$name.or(lower.$name),)* }
            }
        }
    };
}

/// What a file says.
///
/// # Errors
/// [`SettingError`].
pub fn from_file<T: DeserializeOwned>(path: &Path, keys: &Keys) -> Result<T, SettingError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingError::Read { path: path.to_owned(), source })?;
    from_text(path, &text, keys)
}

/// The same of its text; `path` is for messages.
///
/// # Errors
/// [`SettingError`].
pub fn from_text<T: DeserializeOwned>(path: &Path, text: &str, keys: &Keys) -> Result<T, SettingError> {
    let syntax = |error: toml::de::Error| SettingError::Syntax {
        path: path.to_owned(),
        reason: error.to_string().trim_end().to_owned(),
    };
    let place = || path.display().to_string();
    let table: toml::Table = toml::from_str(text).map_err(syntax)?;
    let has_sections = table.values().any(toml::Value::is_table);
    let flat = flatten(table, keys);
    for key in flat.keys() {
        if !keys.iter().any(|(known, _)| known == key) {
            return Err(SettingError::UnknownKey { place: place(), key: key.clone(), nearest: nearest(key, keys) });
        }
    }
    if has_sections {
        return flat.try_into().map_err(|error: toml::de::Error| SettingError::Value {
            place: place(),
            reason: error.to_string().trim_end().replace('\n', " "),
        });
    }
    // From the text once more: only so do errors name their line.
    toml::from_str(text).map_err(syntax)
}

/// `[acme] email = …` is `acme_email = …`, and where `acme` is a switch it is on by the section's being there.
fn flatten(table: toml::Table, keys: &Keys) -> toml::Table {
    let mut flat = toml::Table::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(section) if keys.iter().any(|(known, _)| is_below(known, &key)) => {
                if keys.contains(&(key_of(keys, &key), Kind::Switch)) {
                    flat.insert(key.clone(), true.into());
                }
                flat.extend(section.into_iter().map(|(inner, value)| (format!("{key}_{inner}"), value)));
            }
            value => drop(flat.insert(key, value)),
        }
    }
    flat
}

fn is_below(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('_'))
}

fn key_of(keys: &Keys, text: &str) -> &'static str {
    keys.iter().find(|(known, _)| *known == text).map_or("", |(known, _)| known)
}

/// What the environment says; `variable` looks up one of it.
///
/// # Errors
/// [`SettingError::Value`].
pub fn from_environment<T: DeserializeOwned>(
    prefix: &str,
    keys: &Keys,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<T, SettingError> {
    let mut all = toml::Table::new();
    for (key, kind) in keys {
        let name = format!("{prefix}{}", key.to_ascii_uppercase());
        let Some(text) = variable(&name) else { continue };
        let wrong = |reason: String| SettingError::Value { place: name.clone(), reason };
        let value = kind.read(&text).map_err(wrong)?;
        // By itself first, so that an error is known to be this variable's.
        let one = toml::Table::from_iter([((*key).to_owned(), value.clone())]);
        one.try_into::<T>().map_err(|error| wrong(error.message().to_owned()))?;
        all.insert((*key).to_owned(), value);
    }
    all.try_into()
        .map_err(|error: toml::de::Error| SettingError::Value { place: prefix.to_owned(), reason: error.to_string() })
}

impl Kind {
    fn read(self, text: &str) -> Result<toml::Value, String> {
        let text = text.trim();
        match self {
            Self::Text => Ok(text.into()),
            Self::Number => text.parse::<i64>().map(Into::into).map_err(|_| format!("{text:?} is not a number")),
            Self::Switch => match text {
                "true" | "1" | "yes" | "on" => Ok(true.into()),
                "false" | "0" | "no" | "off" => Ok(false.into()),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
            Self::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(toml::Value::Array(items.map(toml::Value::from).collect()))
            }
        }
    }
}

/// The key that a misspelt one most likely means.
fn nearest(wrong: &str, keys: &Keys) -> Option<&'static str> {
    let (distance, key) = keys.iter().map(|(key, _)| (distance(wrong, key), *key)).min()?;
    (distance <= 1 + wrong.len() / 4).then_some(key)
}

/// How many letters must be put in, taken out, changed or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    settings! {
        /// An example.
        Said as KEYS;

        /// A name.
        host: String, Text;
        /// A number.
        port: u16, Number;
        /// A switch with a section.
        acme: bool, Switch;
        /// In it.
        acme_names: Vec<String>, List;
    }

    fn read(text: &str) -> Result<Said, String> {
        from_text(Path::new("x.toml"), text, KEYS).map_err(|error| error.to_string())
    }

    #[test]
    fn a_section_is_a_beginning_that_keys_share() {
        let flat = read("host = \"h\"\nacme = true\nacme_names = [\"a\"]\n").expect("good");
        assert_eq!(read("host = \"h\"\n[acme]\nnames = [\"a\"]\n"), Ok(flat));
        let error = read("[acme]\nnmaes = []").expect_err("misspelt");
        assert_eq!(error, "x.toml: there is no setting \"acme_nmaes\"; did you mean \"acme_names\"?");
        assert!(read("[acme]\nnames = 3").expect_err("no list").starts_with("x.toml: "));
        let error = read("[acmee]\n").expect_err("misspelt");
        assert_eq!(error, "x.toml: there is no setting \"acmee\"; did you mean \"acme\"?");
    }

    #[test]
    fn the_environment_is_read_by_kind_and_a_wrong_variable_is_named() {
        let variable = |name: &str| match name {
            "X_PORT" => Some("80".to_owned()),
            "X_ACME" => Some("on".to_owned()),
            "X_ACME_NAMES" => Some("a, b,".to_owned()),
            _ => None,
        };
        let said: Said = from_environment("X_", KEYS, variable).expect("good");
        assert_eq!((said.port, said.acme, said.host.as_deref()), (Some(80), Some(true), None));
        assert_eq!(said.acme_names.as_deref(), Some(&["a".to_owned(), "b".to_owned()][..]));
        let lower = Said { host: Some("h".to_owned()), port: Some(1), ..Said::default() };
        assert_eq!(
            said.over(lower),
            Said { host: Some("h".to_owned()), ..from_environment("X_", KEYS, variable).expect("good") }
        );
        for (name, text) in [("X_PORT", "99999"), ("X_PORT", "many"), ("X_ACME", "maybe")] {
            let wrong = |asked: &str| (asked == name).then(|| text.to_owned());
            let error = from_environment::<Said>("X_", KEYS, wrong).expect_err(text).to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
