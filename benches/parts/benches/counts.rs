//! Instructions of the hot parts under Callgrind, compared with `counts.txt`: unlike times they do not depend on what
//! else the machine does, so that a part that has come to cost more shows. `make counts UPDATE=1` writes the file anew.
//!
//! They do depend on the compiler, the C library and Valgrind, which the file names, and on the processor: BLAKE3 and
//! CRC-32C choose their code by its features. Valgrind shows a program none past AVX2, so that all processors with AVX2
//! are one to it. Where any of it is another, nothing is compared, and that is an outcome of its own: exit code 2.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use quorate_parts::{PARTS, Part, Work};

const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");
const HEADER: &str = "# Instructions of a replica's hot parts, written by `make counts UPDATE=1`: ";
/// By how many per cent a count may differ from the known one. To clone each value that an append writes takes two to
/// four of what applying it takes.
const TOLERANCE: f64 = 1.0;
/// The allocator keeps what a thread has given back, up to some of each size, and for some time. Then a call finds a
/// place at once, or has to fetch some, or to give some back, by what was allocated before it, of which the start of a
/// process differs between machines: up to 16 % of a short part. So it keeps everything, and a call that is not the
/// first takes what the one before has given back. Complains if it has no such option any more.
const ALLOCATOR: (&str, &str) = (
    "MALLOC_CONF",
    "abort_conf:true,narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,experimental_tcache_gc:false,\
     tcache_gc_incr_bytes:1152921504606846976,tcache_max:1048576,tcache_nslots_large:512,\
     tcache_nslots_small_min:1024,tcache_nslots_small_max:8192,lg_tcache_nslots_mul:12",
);
/// Of what the allocator grows in place if what lies behind is free: 16 KiB and up.
const PAGE_BYTES: usize = 4096;
const GROWN_PAGES: std::ops::RangeInclusive<usize> = 4..=64;
const NEIGHBOURS: usize = 8;

/// Whether the counts are what they were.
enum Compared {
    Same,
    /// Nothing can be said, for this reason.
    Not(String),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let compared = match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["--run", name] => run(name).map(|()| Compared::Same),
        _ if !can_count() => {
            Ok(Compared::Not("counts.txt is of Linux on x86-64 processors with AVX2".to_owned()))
        }
        ["--update"] => update().map(|()| Compared::Same),
        [] => compare(),
        others => bail!("{others:?} is not --update"),
    };
    Ok(match compared? {
        Compared::Same => ExitCode::SUCCESS,
        Compared::Not(why) => {
            // .ci/run looks for this line.
            println!("not compared: {why}");
            ExitCode::from(2)
        }
    })
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn can_count() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn can_count() -> bool {
    false
}

/// What runs under Callgrind.
fn run(name: &str) -> anyhow::Result<()> {
    let part = PARTS.iter().find(|part| part.name == name).context("no such part")?;
    let work = (part.ready)();
    fill_gaps();
    // Before, so that nothing is set up or allocated for the first time while it is counted.
    work();
    work();
    counted(&work);
    Ok(())
}

/// Leaves nothing free behind anything large, so that all of it moves when it grows, whatever the heap was like.
fn fill_gaps() {
    let sizes = GROWN_PAGES.flat_map(|pages| [pages * PAGE_BYTES; NEIGHBOURS]);
    let kept: Vec<Vec<u8>> = sizes.map(Vec::with_capacity).collect();
    drop(black_box(kept));
}

/// What Callgrind counts, from its call to its return.
#[inline(never)]
fn counted(work: &Work) {
    work();
    // Or else the call could become a jump, and nothing returned here.
    black_box(());
}

fn count(part: &Part) -> anyhow::Result<u64> {
    let ended = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=counts::counted")
        .arg(std::env::current_exe()?)
        .args(["--run", part.name])
        .env(ALLOCATOR.0, ALLOCATOR.1)
        .output()
        .context("valgrind does not start")?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {}\n{said}", part.name, ended.status);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.filter(|count| *count > 0).with_context(|| format!("{}: no count in\n{said}", part.name))
}

/// `rustc 1.95.0, glibc 2.36, valgrind-3.19.0`, say.
fn tools() -> anyhow::Result<String> {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.with_context(|| format!("{program} does not start"))?;
        anyhow::Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let rustc = said("rustc", "--version")?;
    let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let (libc, valgrind) = (said("getconf", "GNU_LIBC_VERSION")?, said("valgrind", "--version")?);
    Ok(format!("{rustc}, {libc}, {valgrind}"))
}

fn update() -> anyhow::Result<()> {
    let mut page = format!("{HEADER}{}\n", tools()?);
    for part in PARTS {
        writeln!(page, "{} {}", part.name, count(part)?)?;
    }
    std::fs::write(KNOWN, page)?;
    println!("written: {KNOWN}");
    Ok(())
}

fn compare() -> anyhow::Result<Compared> {
    let page = std::fs::read_to_string(KNOWN).context(KNOWN)?;
    let (header, lines) = page.split_once('\n').context("counts.txt has no first line")?;
    let (now, then) = (tools()?, header.trim_start_matches(HEADER));
    if now != then {
        return Ok(Compared::Not(format!(
            "this is {now}, and counts.txt was written with {then}. To see what a change does, write the file with \
             `make counts UPDATE=1` on the commit before it"
        )));
    }
    let mut known = BTreeMap::new();
    for line in lines.lines() {
        let (name, count) = line.split_once(' ').context("a line of counts.txt has no count")?;
        known.insert(name, count.parse::<f64>().context("a count in counts.txt")?);
    }
    let mut differing = Vec::new();
    for part in PARTS {
        let count = count(part)?;
        let change = known.remove(part.name).map(|was| 100.0 * (count as f64 - was) / was);
        if change.is_none_or(|change| change.abs() > TOLERANCE) {
            differing.push(part.name);
        }
        let change = change.map_or("new".to_owned(), |change| format!("{change:+.1} %"));
        println!("{:<30} {count:>9} {change:>9}", part.name);
    }
    differing.extend(known.keys());
    ensure!(
        differing.is_empty(),
        "counts.txt differs by more than {TOLERANCE} % in {differing:?}. If that is meant, write it anew with \
         `make counts UPDATE=1`, and commit it with the reason"
    );
    Ok(Compared::Same)
}
