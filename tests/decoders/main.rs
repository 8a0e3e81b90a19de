//! Bytes from disks, peers, callers and people, bent at random: whatever comes, a decoder answers, and what it takes it
//! takes for what it says. Valid inputs are changed in a few places, on the stable toolchain; a run takes seconds, and
//! DECODER_CASES=1000000 hours. `make fuzz` runs the same cases guided by coverage.

mod answers;
mod cases;
mod ground;
mod peers;

use std::collections::BTreeSet;
use std::path::Path;

use cases::Case;
use proptest::collection::vec;
use proptest::prelude::*;

fn settings() -> ProptestConfig {
    let cases = std::env::var("DECODER_CASES").ok().map(|cases| cases.parse().expect("a number"));
    ProptestConfig { cases: cases.unwrap_or(2_000), ..ProptestConfig::default() }
}

/// What goes through a port takes several times as long.
fn settings_of_ports() -> ProptestConfig {
    let settings = settings();
    ProptestConfig { cases: settings.cases.div_ceil(5), ..settings }
}

/// A change of some bytes. Places are scaled to what there is.
#[derive(Clone, Debug)]
enum Bend {
    Set(u16, u8),
    Remove(u16, u8),
    Insert(u16, Vec<u8>),
    Repeat(u16, u8),
    Cut(u16),
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    let bend = prop_oneof![
        4 => (any::<u16>(), byte.clone()).prop_map(|(at, byte)| Bend::Set(at, byte)),
        1 => (any::<u16>(), 1..20u8).prop_map(|(at, count)| Bend::Remove(at, count)),
        1 => (any::<u16>(), vec(byte, 1..12)).prop_map(|(at, bytes)| Bend::Insert(at, bytes)),
        1 => (any::<u16>(), 1..20u8).prop_map(|(at, count)| Bend::Repeat(at, count)),
        1 => any::<u16>().prop_map(Bend::Cut),
    ];
    vec(bend, 0..6)
}

fn bent(bytes: &[u8], bends: &[Bend]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for bend in bends {
        let place = |at: &u16| usize::from(*at) * out.len() / (usize::from(u16::MAX) + 1);
        match bend {
            Bend::Set(at, byte) => {
                let at = place(at);
                if let Some(found) = out.get_mut(at) {
                    *found = *byte;
                }
            }
            Bend::Remove(at, count) => {
                let at = place(at);
                out.drain(at..(at + usize::from(*count)).min(out.len()));
            }
            Bend::Insert(at, bytes) => {
                let at = place(at);
                out.splice(at..at, bytes.iter().copied());
            }
            Bend::Repeat(at, count) => {
                let at = place(at);
                let again = out[at..(at + usize::from(*count)).min(out.len())].to_vec();
                out.splice(at..at, again);
            }
            Bend::Cut(at) => out.truncate(place(at)),
        }
    }
    out
}

/// Every seed, bent in the same way.
fn holds(case: &Case, bends: &[Bend]) {
    for seed in (case.seeds)() {
        (case.check)(&bent(&seed, bends));
    }
}

macro_rules! bend_the_seeds_of {
    ($settings:expr; $($case:ident)*) => {
        proptest! {
            #![proptest_config($settings)]
            $(#[test]
            fn $case(bends in bends()) {
                holds(&cases::$case::CASE, &bends);
            })*
        }
    };
}

bend_the_seeds_of!(settings(); chat config log_tails peers proposals records requests small_files snapshots stored);
bend_the_seeds_of!(settings_of_ports(); answers calls peer_calls peer_replies);

#[test]
fn every_case_is_a_target_of_make_fuzz() {
    let names = |folder: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(folder).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "mod.rs").collect::<BTreeSet<String>>()
    };
    assert_eq!(names("tests/decoders/cases"), names("fuzz/fuzz_targets"));
}
