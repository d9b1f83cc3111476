//! Secrets that must not stand in any log.

use std::collections::BTreeMap;

/// Every secret of a run, by what it is.
#[derive(Default)]
pub struct Secrets {
    /// The hexadecimal text, and what it belongs to.
    hex: BTreeMap<String, &'static str>,
}

impl Secrets {
    /// `wkey-auth-<prefix>-<secret>`: only the last part is secret.
    pub fn add_join_key(&mut self, text: &str) {
        let secret = text.rsplit('-').next().unwrap_or(text);
        assert_eq!(secret.len(), 64, "a join key has another shape now");
        self.hex.insert(secret.to_owned(), "a join key");
    }

    /// All keys of a state file.
    pub fn add_state_file(&mut self, text: &str) {
        let mut found = 0;
        for part in text.split("privkey:").skip(1) {
            if let Some(hex) = part.get(..64) {
                self.hex.insert(hex.to_owned(), "a private key");
                found += 1;
            }
        }
        assert!(found >= 3, "a state file has another shape now");
    }

    /// # Errors
    /// The kind of secret that the log gives away, and where.
    pub fn find_in(&self, log: &str) -> Result<(), String> {
        for (hex, kind) in &self.hex {
            let numbers = as_numbers(hex);
            for shape in [hex.as_str(), &hex.to_uppercase(), &numbers] {
                if let Some(at) = log.find(shape) {
                    let line = log[..at].rsplit('\n').next().unwrap_or_default();
                    let words: String = line.chars().take(120).collect();
                    return Err(format!("the log gives away {kind}: {words} …"));
                }
            }
        }
        Ok(())
    }
}

/// The first bytes as `Debug` of an array shows them.
fn as_numbers(hex: &str) -> String {
    let bytes = (0..16).step_by(2).filter_map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    bytes.map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_whatever_shape_it_stands_in_a_log() {
        let mut secrets = Secrets::default();
        let hex = "01ff".repeat(16);
        secrets.add_join_key(&format!("wkey-auth-000000000000-{hex}"));
        assert!(secrets.find_in("nothing here").is_ok());
        for log in [format!("key {hex}"), format!("KEY {}", hex.to_uppercase()), format!("{:?}", [1u8, 255].repeat(16))]
        {
            assert!(secrets.find_in(&log).is_err(), "{log}");
        }
    }
}
