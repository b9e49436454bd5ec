//! ChaCha key stream, sixteen blocks side by side.
//!
//! The block function of RFC 8439 with the 64-bit counter and nonce of the original cipher. Written as one
//! straight body per block, so that the compiler runs the blocks in vector lanes; checked below against an
//! independent implementation. Words are kept by position and lane, which spares a transposition.

use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// Blocks computed together.
pub(super) const LANES: usize = 16;

/// Words of sixteen blocks: `tile[word][block]`.
pub(super) type Tile = [[u32; LANES]; 16];

/// A key in the words of the cipher. Wiped on drop.
pub(super) struct Key([u32; 8]);

impl Key {
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        Self(std::array::from_fn(|i| u32::from_le_bytes(words[i])))
    }

    /// Named, not `Clone`, so that every second copy of a key is written on purpose.
    pub(super) fn duplicate(&self) -> Self {
        Self(self.0)
    }

    pub(super) fn bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        for (four, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *four = word.to_le_bytes();
        }
        bytes
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Key {}

/// ChaCha8: for noise without a claim against an adversary who attacks the cipher.
pub(super) const ROUNDS_FAST: usize = 8;
/// ChaCha20.
pub(super) const ROUNDS_SAFE: usize = 20;

/// Blocks `16 group` to `16 group + 15` of the key stream.
#[inline(always)]
#[expect(
    clippy::needless_range_loop,
    reason = "index loops over lanes are what is vectorised"
)]
pub(super) fn fill<const ROUNDS: usize>(key: &Key, nonce: u64, group: u64, tile: &mut Tile) {
    const { assert!(ROUNDS == ROUNDS_FAST || ROUNDS == ROUNDS_SAFE) };
    let counter = group * LANES as u64;
    for lane in 0..LANES {
        let k = &key.0;
        let start: [u32; 16] = [
            // "expand 32-byte k"
            0x6170_7865,
            0x3320_646e,
            0x7962_2d32,
            0x6b20_6574,
            k[0],
            k[1],
            k[2],
            k[3],
            k[4],
            k[5],
            k[6],
            k[7],
            // The counter of a group ends in four zero bits: the lane never carries.
            counter as u32 | lane as u32,
            (counter >> 32) as u32,
            nonce as u32,
            (nonce >> 32) as u32,
        ];
        let mut state = start;
        // Written out: a loop over rounds would keep the loop over lanes from being vectorised.
        double_round(&mut state);
        double_round(&mut state);
        double_round(&mut state);
        double_round(&mut state);
        if ROUNDS == ROUNDS_SAFE {
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
        }
        for word in 0..16 {
            tile[word][lane] = state[word].wrapping_add(start[word]);
        }
    }
}

#[inline(always)]
fn double_round(state: &mut [u32; 16]) {
    quarter_round(state, 0, 4, 8, 12);
    quarter_round(state, 1, 5, 9, 13);
    quarter_round(state, 2, 6, 10, 14);
    quarter_round(state, 3, 7, 11, 15);
    quarter_round(state, 0, 5, 10, 15);
    quarter_round(state, 1, 6, 11, 12);
    quarter_round(state, 2, 7, 8, 13);
    quarter_round(state, 3, 4, 9, 14);
}

#[inline(always)]
fn quarter_round(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(16);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(12);
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(8);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(7);
}

#[cfg(test)]
mod tests {
    use chacha20::{ChaCha8Rng, ChaCha20Rng};
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::noise::lanes;

    fn agrees_with<R: Rng, const ROUNDS: usize>(
        mut reference: R,
        key: &Key,
        nonce: u64,
        group: u64,
    ) {
        let mut plain = Tile::default();
        fill::<ROUNDS>(key, nonce, group, &mut plain);
        let mut wide = Tile::default();
        lanes::widest(
            #[inline(always)]
            || fill::<ROUNDS>(key, nonce, group, &mut wide),
        );
        assert_eq!(plain, wide);
        for block in 0..LANES {
            for word in &plain {
                assert_eq!(word[block], reference.next_u32());
            }
        }
    }

    #[test]
    fn the_key_stream_is_that_of_an_independent_chacha() {
        // Groups on both sides of the border of the counter's words.
        for (byte, nonce, group) in [
            (0, 0, 0),
            (7, 1, 3),
            (255, u64::MAX - 2, (1 << 28) - 1),
            (9, 1 << 33, 1 << 28),
        ] {
            let seed: [u8; 32] = std::array::from_fn(|i| byte ^ i as u8);
            let key = Key::new(&seed);
            assert_eq!(*key.bytes(), seed);
            let mut reference = ChaCha8Rng::from_seed(seed);
            reference.set_stream(nonce);
            reference.set_word_pos(u128::from(group) * 256);
            agrees_with::<_, ROUNDS_FAST>(reference, &key, nonce, group);
            let mut reference = ChaCha20Rng::from_seed(seed);
            reference.set_stream(nonce);
            reference.set_word_pos(u128::from(group) * 256);
            agrees_with::<_, ROUNDS_SAFE>(reference, &key, nonce, group);
        }
    }

    #[test]
    fn the_first_block_of_the_zero_key_is_the_published_one() {
        // RFC 8439, appendix A.1, test vector 1: first sixteen bytes.
        let mut tile = Tile::default();
        fill::<ROUNDS_SAFE>(&Key::new(&[0; 32]), 0, 0, &mut tile);
        let first = [tile[0][0], tile[1][0], tile[2][0], tile[3][0]];
        assert_eq!(first, [0xade0_b876, 0x903d_f1a0, 0xe56a_5d40, 0x28bd_8653]);
    }
}
