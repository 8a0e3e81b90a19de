//! One seed decides everything: while a thread simulates, the operating system's calls for randomness and time are
//! answered from the seed and from simulated time. So hash maps, ids, jitter and dates are the same in every run of the
//! same seed, whoever asks for them, in whatever crate. Other threads get what the operating system says.
//!
//! The method is madsim's (<https://github.com/madsim-rs/madsim>, `sim/rand.rs`, `sim/time/system_time.rs`).

#![expect(unsafe_code, reason = "functions of the C library are put in front of the system's own")]

use std::cell::RefCell;
use std::hash::RandomState;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

/// When simulated time begins, in seconds since the Unix epoch: 2026-01-01.
const EPOCH_S: u64 = 1_767_225_600;

struct Simulated {
    randomness: SmallRng,
    elapsed: Duration,
}

thread_local! {
    static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// From now on this thread lives in simulated time. It has to be a new one in a new process: what was drawn before would
/// remain, and be different.
pub fn enter(seed: u64) {
    let randomness = SmallRng::seed_from_u64(seed ^ 0x7175_6f72_6174_6500);
    SIMULATED.set(Some(Simulated { randomness, elapsed: Duration::ZERO }));
    // Keys of hash maps are drawn once for each thread, by whoever is first.
    drop(RandomState::new());
}

/// How long this thread's simulation has run, in its own time.
pub fn elapsed() -> Duration {
    SIMULATED.with_borrow(|simulated| simulated.as_ref().map_or(Duration::ZERO, |s| s.elapsed))
}

/// Sets the time of this thread's simulation.
pub fn set_elapsed(elapsed: Duration) {
    SIMULATED.with_borrow_mut(|simulated| {
        if let Some(simulated) = simulated {
            simulated.elapsed = elapsed;
        }
    });
}

/// Microseconds since the Unix epoch, in simulated time.
pub fn wall_clock_us() -> u64 {
    EPOCH_S * 1_000_000 + elapsed().as_micros() as u64
}

/// Runs `answer` on this thread's simulation; none if it has none, or is in the middle of being asked.
fn simulated<T>(answer: impl FnOnce(&mut Simulated) -> T) -> Option<T> {
    let answered = SIMULATED.try_with(|simulated| {
        let mut simulated = simulated.try_borrow_mut().ok()?;
        simulated.as_mut().map(answer)
    });
    answered.ok().flatten()
}

/// In place of the C library's.
///
/// # Safety
/// `buffer` has to be valid for `length` bytes, as for the original.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let filled = simulated(|simulated| {
        // SAFETY: the caller says so.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        simulated.randomness.fill_bytes(bytes);
    });
    match filled {
        Some(()) => length as libc::ssize_t,
        // SAFETY: the arguments are the caller's.
        None => unsafe {
            libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t
        },
    }
}

/// In place of the C library's.
///
/// # Safety
/// `time` has to be valid, as for the original.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let Some(elapsed) = simulated(|simulated| simulated.elapsed) else {
        // SAFETY: the arguments are the caller's.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int };
    };
    // Long after boot, so that nothing that is subtracted from it goes below zero.
    let seconds = elapsed.as_secs() + EPOCH_S;
    let told = libc::timespec {
        tv_sec: seconds as libc::time_t,
        tv_nsec: libc::c_long::from(elapsed.subsec_nanos()),
    };
    // SAFETY: the caller says that it is valid.
    unsafe { time.write(told) };
    0
}
