//! The little of IPv4 and TCP that a switch has to know.

use std::net::Ipv4Addr;

const PROTOCOL_TCP: u8 = 6;
const TCP_HEADER_BYTES: usize = 20;
const IP_HEADER_BYTES: usize = 20;
const FLAG_RST: u8 = 0x04;
const FLAG_ACK: u8 = 0x10;
const FLAGS_WITH_A_NUMBER: u8 = 0x03;

/// Source and destination; none if it is no IPv4 packet.
pub(super) fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if packet.len() < IP_HEADER_BYTES || packet[0] >> 4 != 4 {
        return None;
    }
    let at = |from: usize| {
        Ipv4Addr::new(packet[from], packet[from + 1], packet[from + 2], packet[from + 3])
    };
    Some((at(12), at(16)))
}

/// The packet with which a host refuses a connection that it does not know: what the sender of `packet` believes when
/// it is answered so. None for what is no TCP, and for a reset, which is never answered.
pub(super) fn reset_for(packet: &[u8]) -> Option<Vec<u8>> {
    let (source, destination) = addresses(packet)?;
    let header = usize::from(packet[0] & 0x0f) * 4;
    let tcp = packet.get(header..)?;
    if packet[9] != PROTOCOL_TCP || tcp.len() < TCP_HEADER_BYTES || tcp[13] & FLAG_RST != 0 {
        return None;
    }
    let number =
        |from: usize| u32::from_be_bytes([tcp[from], tcp[from + 1], tcp[from + 2], tcp[from + 3]]);
    let data = tcp.len().saturating_sub(usize::from(tcp[12] >> 4) * 4);
    // SYN and FIN take a place in the sequence each.
    let length = u32::try_from(data).ok()? + (tcp[13] & FLAGS_WITH_A_NUMBER).count_ones();
    let acknowledges = tcp[13] & FLAG_ACK != 0;

    let mut reset = vec![0; IP_HEADER_BYTES + TCP_HEADER_BYTES];
    reset[0] = 0x45;
    reset[3] = (IP_HEADER_BYTES + TCP_HEADER_BYTES) as u8;
    reset[8] = 64;
    reset[9] = PROTOCOL_TCP;
    reset[12..16].copy_from_slice(&destination.octets());
    reset[16..20].copy_from_slice(&source.octets());
    let sum = checksum(&reset[..IP_HEADER_BYTES], 0);
    reset[10..12].copy_from_slice(&sum.to_be_bytes());

    let (_, answer) = reset.split_at_mut(IP_HEADER_BYTES);
    answer[0..2].copy_from_slice(&tcp[2..4]);
    answer[2..4].copy_from_slice(&tcp[0..2]);
    if acknowledges {
        answer[4..8].copy_from_slice(&number(8).to_be_bytes());
        answer[13] = FLAG_RST;
    } else {
        answer[8..12].copy_from_slice(&number(4).wrapping_add(length).to_be_bytes());
        answer[13] = FLAG_RST | FLAG_ACK;
    }
    answer[12] = 0x50;
    let mut pseudo = u32::from(PROTOCOL_TCP) + TCP_HEADER_BYTES as u32;
    for address in [source, destination] {
        let [a, b, c, d] = address.octets();
        pseudo += u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]));
    }
    let sum = checksum(answer, pseudo);
    answer[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(reset)
}

/// The Internet checksum (RFC 1071) of bytes of even number, on top of a sum.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 10.0.0.1:1000 to 10.0.0.2:2000 with the number 7.
    fn syn() -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[9] = PROTOCOL_TCP;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet[20..22].copy_from_slice(&1000_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&2000_u16.to_be_bytes());
        packet[27] = 7;
        packet[32] = 0x50;
        packet[33] = 0x02;
        packet
    }

    #[test]
    fn a_reset_answers_the_packet_that_it_is_for() {
        let reset = reset_for(&syn()).expect("it is TCP");
        let (source, destination) = addresses(&reset).expect("it is IPv4");
        assert_eq!((source, destination), ([10, 0, 0, 2].into(), [10, 0, 0, 1].into()));
        assert_eq!(reset[20..24], [0x07, 0xd0, 0x03, 0xe8]);
        assert_eq!(reset[28..32], 8_u32.to_be_bytes(), "the SYN counts as one");
        assert_eq!(reset[33], FLAG_RST | FLAG_ACK);
        assert_eq!(checksum(&reset[..20], 0), 0);
        assert_eq!(reset_for(&reset), None, "a reset is never answered");
    }

    #[test]
    fn what_is_no_packet_has_no_addresses() {
        assert_eq!(addresses(&[0x60; 40]), None);
        assert_eq!(addresses(&[0x45]), None);
    }
}
