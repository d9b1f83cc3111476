//! Seeded changes of known inputs: what ordinary tests do in place of a coverage-guided fuzzer.

use warren_crypto::Random;

/// Values at which lengths and counts go wrong.
const INTERESTING: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, b'"', b'{', b'0'];

/// One input made of `seed` by one to four changes; `other` is a second known input to take pieces from.
pub fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = below(random, bytes.len() + 1);
        match random.below(8) {
            0 => flip(&mut bytes, random),
            1 => set(&mut bytes, random),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.bytes::<1>()[0]),
            4 => drop_piece(&mut bytes, at, random),
            5 => repeat_piece(&mut bytes, at, random),
            6 => splice(&mut bytes, at, other, random),
            _ => add(&mut bytes, random),
        }
    }
    bytes
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

fn one<'a>(bytes: &'a mut [u8], random: &mut Random) -> Option<&'a mut u8> {
    let at = below(random, bytes.len());
    bytes.get_mut(at)
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    let bit = random.below(8);
    one(bytes, random).into_iter().for_each(|byte| *byte ^= 1 << bit);
}

fn set(bytes: &mut [u8], random: &mut Random) {
    let value = INTERESTING[below(random, INTERESTING.len())];
    one(bytes, random).into_iter().for_each(|byte| *byte = value);
}

fn add(bytes: &mut [u8], random: &mut Random) {
    let value = random.below(9) as u8;
    one(bytes, random).into_iter().for_each(|byte| *byte = byte.wrapping_add(value).wrapping_sub(4));
}

fn drop_piece(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let end = (at + below(random, 16)).min(bytes.len());
    bytes.drain(at..end);
}

fn repeat_piece(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let end = (at + below(random, 64)).min(bytes.len());
    let piece = bytes[at..end].to_vec();
    bytes.splice(at..at, piece);
}

fn splice(bytes: &mut Vec<u8>, at: usize, other: &[u8], random: &mut Random) {
    let from = below(random, other.len() + 1);
    bytes.truncate(at);
    bytes.extend_from_slice(&other[from..]);
}
