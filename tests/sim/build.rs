//! Some crates look the operating system's calls up by name while the program runs: they have to find ours.

fn main() {
    for symbol in ["getrandom", "clock_gettime"] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={symbol}");
    }
}
