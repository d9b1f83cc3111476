//! Where corpora come from: honest messages, made by the cores themselves, and the edges of them.
//!
//! `cargo run -p warren-fuzz --example write-corpus` writes them to `corpus/`, beside what a fuzzer has found.

mod channels;
mod datagrams;
mod sign_in;
mod texts;

/// One file of a corpus.
pub struct Seed {
    pub target: &'static str,
    pub file: String,
    pub bytes: Vec<u8>,
}

/// Every seed of every target.
pub fn all() -> Vec<Seed> {
    let mut into = Seeds(Vec::new());
    channels::add(&mut into);
    datagrams::add(&mut into);
    sign_in::add(&mut into);
    texts::add(&mut into);
    into.0
}

pub(crate) struct Seeds(Vec<Seed>);

impl Seeds {
    pub(crate) fn put(&mut self, target: &'static str, file: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push(Seed { target, file: file.to_owned(), bytes: bytes.into() });
    }

    /// An honest message, the same cut in the middle, and nothing at all.
    pub(crate) fn put_whole(&mut self, target: &'static str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.put(target, "cut", &bytes[..bytes.len() / 2]);
        self.put(target, "empty", []);
        self.put(target, "whole", bytes);
    }
}
