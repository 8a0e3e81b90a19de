use super::Timestamp;

/// Where time comes from. The server implements it once; simulations bring their own.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Microseconds since some fixed point, never going back, running on while the machine is suspended.
    fn elapsed_us(&self) -> u64;
}
