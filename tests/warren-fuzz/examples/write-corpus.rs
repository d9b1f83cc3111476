//! Writes the seeds of every target to `corpus/`, beside what is there.

fn main() -> std::io::Result<()> {
    for seed in warren_fuzz::seeds::all() {
        let dir = warren_fuzz::corpus_dir(seed.target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(seed.file), seed.bytes)?;
    }
    Ok(())
}
