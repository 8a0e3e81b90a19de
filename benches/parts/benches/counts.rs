//! Instructions of the hot parts under Callgrind, compared with `counts.txt`: unlike times they do not depend on what
//! else the machine does, so that a part that has come to cost more shows. `make counts UPDATE=1` writes the file anew.
//!
//! They do depend on the compiler and the C library, which the file names, and on the processor: BLAKE3 and CRC-32C choose their code by
//! its features. Valgrind shows a program none past AVX2, so that all processors with AVX2 are one to it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use quorate_parts::{PARTS, Part, Work};

const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");
const HEADER: &str = "# Instructions of a replica's hot parts, written by `make counts UPDATE=1`: ";
/// By how many per cent a count may differ from the known one. To clone each value that an append writes takes two to
/// four of what applying it takes.
const TOLERANCE: f64 = 1.0;
/// The allocator collects what a thread has cached by the clock unless it is told not to, and then the counts of long
/// parts are up to 2 % apart. Complains if it has no such option any more.
const ALLOCATOR: (&str, &str) = ("MALLOC_CONF", "abort_conf:true,experimental_tcache_gc:false");

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        ["--run", name] => run(name),
        _ if !can_count() => {
            println!("not counted: counts.txt is of Linux on x86-64 processors with AVX2");
            Ok(())
        }
        ["--update"] => update(),
        [] => compare(),
        others => bail!("{others:?} is not --update"),
    }
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
    // Once before, so that nothing is set up or allocated for the first time while it is counted.
    work();
    counted(&work);
    Ok(())
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

/// `rustc 1.95.0, glibc 2.36`, say.
fn tools() -> anyhow::Result<String> {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.with_context(|| format!("{program} does not start"))?;
        anyhow::Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let rustc = said("rustc", "--version")?;
    let rustc = rustc.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(format!("{rustc}, {}", said("getconf", "GNU_LIBC_VERSION")?))
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

fn compare() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(KNOWN).context(KNOWN)?;
    let (header, lines) = page.split_once('\n').context("counts.txt has no first line")?;
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
    let (now, then) = (tools()?, header.trim_start_matches(HEADER));
    if now != then {
        println!("not judged: this is {now}, and counts.txt was written with {then}");
        return Ok(());
    }
    ensure!(
        differing.is_empty(),
        "counts.txt differs by more than {TOLERANCE} % in {differing:?}. If that is meant, write it anew with \
         `make counts UPDATE=1`, and commit it with the reason"
    );
    Ok(())
}
