//! Streams: what repeats, what never does, and what is never shown.

use dp_rs::noise::{NoiseLevel, Purpose, Randomness, RootKey, Stream, add_noise};
use rand::Rng as _;

fn first(root: &RootKey, purpose: Purpose, context: &[&[u8]]) -> u64 {
    root.stream(purpose, context).next_u64()
}

#[test]
fn a_seeded_stream_repeats_and_says_that_it_is_a_simulation() {
    let stream = || RootKey::simulation(3).stream(Purpose::Sampling, &[b"study", b"1"]);
    assert_eq!(stream().next_u64(), stream().next_u64());
    assert!(stream().simulation());
    assert_eq!(stream().randomness(), Randomness::SimulationSeeded);
}

#[test]
fn seeded_values_are_pinned() {
    // Changes only together with the version of the derivation: recorded runs depend on these values.
    let mut stream = RootKey::simulation(1).stream(Purpose::GradientNoise, &[b"golden"]);
    assert_eq!(stream.next_u64(), PINNED_WORD);
    let mut values = [0.0_f32; 4];
    add_noise(NoiseLevel::Fast, &mut values, 1.0, &mut stream).unwrap();
    assert_eq!(values.map(f32::to_bits), PINNED_FAST);
    let mut values = [0.0_f32; 4];
    add_noise(NoiseLevel::Hardened, &mut values, 1.0, &mut stream).unwrap();
    assert_eq!(values.map(f32::to_bits), PINNED_HARDENED);
}

#[test]
fn the_operating_system_s_streams_never_repeat() {
    let root = RootKey::from_operating_system().unwrap();
    let draw = || first(&root, Purpose::GradientNoise, &[b"same context"]);
    // 64-bit values: a false alarm has probability 2^-64.
    assert_ne!(draw(), draw());
    let other = RootKey::from_operating_system().unwrap();
    assert_ne!(
        draw(),
        first(&other, Purpose::GradientNoise, &[b"same context"])
    );
    assert!(!root.stream(Purpose::GradientNoise, &[]).simulation());
}

#[test]
fn every_part_of_a_context_and_its_borders_count() {
    let root = RootKey::simulation(5);
    let values = [
        first(&root, Purpose::Sampling, &[b"ab", b"c"]),
        first(&root, Purpose::Sampling, &[b"a", b"bc"]),
        first(&root, Purpose::Sampling, &[b"abc"]),
        first(&root, Purpose::Sampling, &[b"abc", b""]),
        first(&root, Purpose::Sampling, &[]),
        first(&root, Purpose::GradientNoise, &[b"abc"]),
        first(&root, Purpose::Named("sampling"), &[b"abc"]),
        first(&root, Purpose::Named(""), &[b"sampling", b"abc"]),
        first(&RootKey::simulation(6), Purpose::Sampling, &[b"abc"]),
    ];
    for (i, a) in values.iter().enumerate() {
        assert!(
            values[..i].iter().all(|b| a != b),
            "stream {i} repeats another"
        );
    }
}

#[test]
fn nothing_printed_contains_a_key() {
    let root = RootKey::simulation(0x00ab_cdef);
    let stream = root.stream(Purpose::Sampling, &[]);
    assert_eq!(
        format!("{root:?}"),
        "RootKey { randomness: SimulationSeeded, .. }"
    );
    assert_eq!(
        format!("{stream:?}"),
        "Stream { randomness: SimulationSeeded, .. }"
    );
}

#[test]
fn the_names_in_files_are_fixed() {
    let name = |randomness: Randomness| serde_json::to_string(&randomness).unwrap();
    assert_eq!(name(Randomness::OperatingSystem), "\"operating-system\"");
    assert_eq!(name(Randomness::SimulationSeeded), "\"simulation-seeded\"");
    let level: NoiseLevel = serde_json::from_str("\"hardened\"").unwrap();
    assert_eq!(level, NoiseLevel::Hardened);
}

/// Correlation of the noise of two streams.
fn correlation(level: NoiseLevel, a: &mut Stream, b: &mut Stream) -> f64 {
    let draw = |stream| {
        let mut values = vec![0.0_f32; N];
        add_noise(level, &mut values, 1.0, stream).unwrap();
        values
    };
    let (a, b) = (draw(a), draw(b));
    a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / N as f64
}

const N: usize = 40_000;

#[test]
fn streams_of_other_purposes_rounds_and_calls_are_uncorrelated() {
    // 8 correlations, each normal with standard deviation 1/sqrt(N): beyond 4.5 deviations with probability 5e-5
    // in all.
    let bound = 4.5 / (N as f64).sqrt();
    let root = RootKey::simulation(11);
    for level in [NoiseLevel::Fast, NoiseLevel::Hardened] {
        let stream = |purpose, round: u32| root.stream(purpose, &[b"study", &round.to_le_bytes()]);
        let base = || stream(Purpose::GradientNoise, 1);
        let mut later_call = base();
        add_noise(level, &mut [0.0], 1.0, &mut later_call).unwrap();
        let others = [
            stream(Purpose::GradientNoise, 2),
            stream(Purpose::CountNoise, 1),
            RootKey::simulation(12)
                .stream(Purpose::GradientNoise, &[b"study", &1_u32.to_le_bytes()]),
            later_call,
        ];
        for mut other in others {
            let found = correlation(level, &mut base(), &mut other);
            assert!(found.abs() < bound, "{level:?}: {found}");
        }
        assert!(correlation(level, &mut base(), &mut base()) > 0.9);
    }
}

// Recomputed from the definitions alone (HKDF, ChaCha and Box-Muller in Python's hmac and math): the word and the
// hardened values agree in every bit, the fast ones to single precision.
const PINNED_WORD: u64 = 13_278_529_938_317_889_860;
/// 0.760218, 0.222629, 2.841783, 1.061890.
const PINNED_FAST: [u32; 4] = [0x3f42_9d9e, 0x3e63_f8fb, 0x4035_dfc6, 0x3f87_ec00];
/// -0.692163, 0.899632, -0.559300, -0.311057.
const PINNED_HARDENED: [u32; 4] = [0xbf31_31a0, 0x3f66_4e50, 0xbf0f_2e50, 0xbe9f_42e0];
