//! `cargo xtask bench tunnel`: how fast a packet gets through, beside bare cables and other people's tunnels.

use anyhow::{Result, bail};

pub fn tunnel(_words: &[&str]) -> Result<()> {
    bail!("the tunnel bench is not built yet")
}
