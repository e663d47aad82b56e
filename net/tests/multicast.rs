//! Real multicast on loopback. What needs another network than the host's runs in a network namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use net::multicast::{Impairment, Interface, MulticastError, ReceiveOptions, Receiver, SendOptions, Sender};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};

/// A group of this process's own, so that two runs at once do not hear each other.
fn group(last: u8) -> SocketAddr {
    let id = std::process::id();
    let octet = u8::try_from(id % 250).unwrap() + 1;
    SocketAddr::from(([239, 79, octet, last], 20_000 + u16::try_from(id % 20_000).unwrap()))
}

fn on(interface: &str) -> Interface {
    interface.parse().unwrap()
}

fn sender(group: SocketAddr, interface: &str) -> Sender {
    Sender::open(group, &SendOptions { interface: on(interface), ..SendOptions::default() }).unwrap()
}

fn receiver(group: SocketAddr, interface: &str) -> Receiver {
    Receiver::open(group, &ReceiveOptions { interface: on(interface), sources: vec![] }).unwrap()
}

/// The next datagram; nothing within half a second if there is none.
async fn next(receiver: &mut Receiver) -> Option<Vec<u8>> {
    let mut buffer = [0; 2_000];
    let received = tokio::time::timeout(Duration::from_millis(500), receiver.recv(&mut buffer)).await.ok()?;
    Some(buffer[..received.unwrap().0].to_vec())
}

/// Whether this process is in a network of its own, made by the shell commands `setup`. If not, runs the test `name` in
/// one; where the host cannot make one, says so.
fn alone(name: &str, setup: &str) -> bool {
    if std::env::var_os("KEYSTONE_TEST_ALONE").is_some() {
        return true;
    }
    let script = format!("(ip link set lo up; {setup}) || exit 77; exec \"$0\" --exact {name} --nocapture");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .env("KEYSTONE_TEST_ALONE", "1")
        .output();
    match output {
        Ok(output) if output.status.success() => assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed")),
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output) => println!("skipped, no such network here: {}", String::from_utf8_lossy(&output.stderr)),
        Err(why) => println!("skipped, no network namespaces here: {why}"),
    }
    false
}

/// Two networks with both families, `one` and `two`; Linux carries no IPv6 multicast on loopback.
const NETWORKS: &str = "for i in 1,one 2,two; do \
                            ip link add ${i#*,} type veth peer name peer${i%,*}; \
                            ip addr add 192.0.2.${i%,*}/32 dev ${i#*,}; \
                            ip addr add fd00::${i%,*}/64 dev ${i#*,} nodad; \
                            ip addr add fe80::${i%,*}/64 dev ${i#*,} nodad; \
                            ip link set ${i#*,} up; ip link set peer${i%,*} up; \
                        done";

#[tokio::test]
async fn every_receiver_on_a_host_gets_every_datagram_of_its_group_only() {
    let (mine, other) = (sender(group(1), "127.0.0.1"), sender(group(2), "lo"));
    let mut receivers = ["127.0.0.1", "lo", "lo"].map(|interface| receiver(group(1), interface));
    for i in 0..50u8 {
        other.send(&[0xff]).await.unwrap();
        mine.send(&[i; 700]).await.unwrap();
    }
    for receiver in &mut receivers {
        for i in 0..50u8 {
            assert_eq!(next(receiver).await, Some(vec![i; 700]));
        }
    }
}

#[tokio::test]
async fn two_groups_share_an_address_and_a_port() {
    let senders = [sender(group(5), "lo"), sender(group(5), "lo")];
    let mut receivers = [receiver(group(5), "lo"), receiver(group(5), "lo")];
    for (i, sender) in (0..).zip(&senders) {
        sender.send(&[i; 10]).await.unwrap();
    }
    for receiver in &mut receivers {
        assert_eq!((next(receiver).await, next(receiver).await), (Some(vec![0; 10]), Some(vec![1; 10])));
    }
}

/// Datagrams of many lengths, so that runs begin and end everywhere.
fn mixed() -> Vec<Vec<u8>> {
    let lengths = [700; 150].into_iter().chain([1, 0, 2]).chain([1_232; 70]).chain([600, 600, 599, 601]);
    lengths.zip(0u8..).map(|(length, i)| vec![i; length]).collect()
}

async fn arrive(receiver: &mut Receiver) {
    for (i, datagram) in mixed().into_iter().enumerate() {
        assert_eq!(next(receiver).await, Some(datagram), "{i}");
    }
    assert_eq!(next(receiver).await, None);
}

#[tokio::test]
async fn many_at_once_and_one_by_one_are_the_same_datagrams_in_the_same_order() {
    let (sender, mut receiver) = (sender(group(6), "lo"), receiver(group(6), "lo"));
    sender.send_all(&mixed()).await.unwrap();
    arrive(&mut receiver).await;
    for datagram in mixed() {
        sender.send(&datagram).await.unwrap();
    }
    arrive(&mut receiver).await;
}

#[tokio::test]
async fn an_interface_without_offload_gets_datagrams_one_by_one() {
    // A device that cannot do checksums: older kernels refuse segments there, newer ones cut them in software.
    let setup = "ip tuntap add dev plain0 mode tun; ip addr add 192.0.2.1/24 dev plain0; ip link set plain0 up";
    if alone("an_interface_without_offload_gets_datagrams_one_by_one", setup) {
        let (sender, mut receiver) = (sender(group(7), "plain0"), receiver(group(7), "192.0.2.1"));
        for _ in 0..2 {
            sender.send_all(&mixed()).await.unwrap();
            arrive(&mut receiver).await;
        }
    }
}

#[tokio::test]
async fn ipv6_groups_by_name_and_by_address() {
    if !alone("ipv6_groups_by_name_and_by_address", NETWORKS) {
        return;
    }
    for address in ["[ff02::4b:1]:7000", "[ff05::4b:1]:7000", "[ff12::4b:1]:7000"] {
        let address: SocketAddr = address.parse().unwrap();
        for (from, to) in [("one", "fd00::1"), ("fd00::1", "one"), ("fe80::1", "192.0.2.1"), ("192.0.2.1", "fe80::1")] {
            let (sender, mut receiver) = (sender(address, from), receiver(address, to));
            sender.send_all(&mixed()).await.unwrap();
            arrive(&mut receiver).await;
        }
    }
    let link: SocketAddr = "[ff02::4b:1]:7000".parse().unwrap();
    let error = Sender::open(link, &SendOptions::default()).unwrap_err().to_string();
    assert!(error.contains("needs an interface"), "{error}");
}

#[tokio::test]
async fn interfaces_are_kept_apart() {
    if alone("interfaces_are_kept_apart", NETWORKS) {
        for address in [group(8), "[ff05::4b:2]:7001".parse().unwrap()] {
            let mut receivers = [receiver(address, "one"), receiver(address, "two")];
            for (i, interface) in (0..).zip(["one", "two"]) {
                sender(address, interface).send(&[i]).await.unwrap();
            }
            for (i, receiver) in (0..).zip(&mut receivers) {
                assert_eq!((next(receiver).await, next(receiver).await), (Some(vec![i]), None), "{address}");
            }
        }
    }
}

#[tokio::test]
async fn other_sources_are_not_heard() {
    let sources: Vec<IpAddr> = vec![[127, 0, 0, 2].into(), [127, 0, 0, 3].into()];
    let options = ReceiveOptions { interface: on("127.0.0.1"), sources };
    let mut some = Receiver::open(group(9), &options).unwrap();
    let mut all = receiver(group(9), "lo");
    for source in 1..=4u8 {
        sender(group(9), &format!("127.0.0.{source}")).send(&[source]).await.unwrap();
    }
    for source in [2, 3] {
        assert_eq!(next(&mut some).await, Some(vec![source]));
    }
    assert_eq!(next(&mut some).await, None);
    for source in 1..=4 {
        assert_eq!(next(&mut all).await, Some(vec![source]));
    }
    let options = ReceiveOptions { sources: vec!["::1".parse().unwrap()], ..options };
    assert!(matches!(Receiver::open(group(9), &options), Err(MulticastError::Sources { .. })));
}

#[tokio::test]
async fn other_ipv6_sources_are_not_heard() {
    if !alone("other_ipv6_sources_are_not_heard", NETWORKS) {
        return;
    }
    // A group for single sources (RFC 4607, section 1), one of a link, and one of any kind.
    for address in ["[ff35::4b:1]:7003", "[ff02::4b:1]:7003", "[ff05::4b:1]:7003"] {
        let address: SocketAddr = address.parse().unwrap();
        let open = |interface: &str, sources: &[&str]| {
            let sources = sources.iter().map(|source| source.parse().unwrap()).collect();
            Receiver::open(address, &ReceiveOptions { interface: on(interface), sources })
        };
        for interface in ["one", "fd00::1"] {
            let mut global = open(interface, &["fd00::1"]).unwrap();
            let mut both = open(interface, &["fd00::1", "fe80::1"]).unwrap();
            let mut nobody = open(interface, &["fd00::9"]).unwrap();
            let mut elsewhere = open("two", &["fd00::1"]).unwrap();
            for (i, source) in (0..).zip(["fd00::1", "fe80::1", "fd00::1"]) {
                sender(address, source).send(&[i]).await.unwrap();
            }
            for i in [0, 2] {
                assert_eq!(next(&mut global).await, Some(vec![i]), "{address} {interface}");
            }
            for i in 0..3 {
                assert_eq!(next(&mut both).await, Some(vec![i]), "{address} {interface}");
            }
            for deaf in [&mut global, &mut both, &mut nobody, &mut elsewhere] {
                assert_eq!(next(deaf).await, None, "{address} {interface}");
            }
        }
        let refused = open("one", &["192.0.2.1"]);
        assert!(matches!(refused, Err(MulticastError::Sources { .. })));
        // The system refuses the same source a second time.
        let refused = open("one", &["fd00::1", "fd00::1"]);
        assert!(matches!(refused, Err(MulticastError::Socket { what: "join for a source", .. })));
    }
}

/// The traffic class of the next datagram.
fn class(socket: &Socket) -> u8 {
    let mut octets = [0; 100];
    let mut slices = [IoSliceMut::new(&mut octets)];
    let mut space = nix::cmsg_space!(i32);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
    match message.cmsgs().unwrap().next() {
        Some(ControlMessageOwned::Ipv4Tos(class)) => class,
        Some(ControlMessageOwned::Ipv6TClass(class)) => class.try_into().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_code_point_is_in_every_datagram() {
    if !alone("the_code_point_is_in_every_datagram", NETWORKS) {
        return;
    }
    for group in [group(10), "[ff05::4b:3]:7002".parse().unwrap()] {
        let socket = Socket::new(Domain::for_address(group), Type::DGRAM, None).unwrap();
        socket.bind(&SockAddr::from(group)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match group.ip() {
            IpAddr::V4(group) => {
                socket.join_multicast_v4(&group, &Ipv4Addr::new(192, 0, 2, 1)).unwrap();
                socket.set_recv_tos_v4(true).unwrap();
            }
            IpAddr::V6(group) => {
                socket.join_multicast_v6(&group, nix::net::if_::if_nametoindex("one").unwrap()).unwrap();
                socket.set_recv_tclass_v6(true).unwrap();
            }
        }
        for dscp in [0, 46, 63] {
            let options = SendOptions { interface: on("one"), dscp, ..SendOptions::default() };
            let sender = Sender::open(group, &options).unwrap();
            sender.send(&[1]).await.unwrap();
            sender.send_all(&vec![vec![2; 50]; 5]).await.unwrap();
            for i in 0..6 {
                assert_eq!(class(&socket), dscp << 2, "{group} {i}");
            }
        }
    }
}

#[tokio::test]
async fn an_impaired_receiver_drops_what_it_is_told_and_counts_it() {
    let sender = sender(group(3), "lo");
    let impaired = Impairment { loss: 0.3, burst_ms: 0, seed: 5 };
    let mut receiver = receiver(group(3), "lo").with_impairment(impaired).unwrap();
    for i in 0..400u16 {
        sender.send(&i.to_be_bytes()).await.unwrap();
    }
    let mut received = 0u64;
    while next(&mut receiver).await.is_some() {
        received += 1;
    }
    assert_eq!(received + receiver.dropped(), 400);
    assert!((80..160).contains(&receiver.dropped()), "{}", receiver.dropped());
}

#[tokio::test]
async fn losses_come_in_bursts_if_they_are_told_to() {
    let sender = sender(group(5), "lo");
    let impaired = Impairment { loss: 0.3, burst_ms: 50, seed: 5 };
    let mut receiver = receiver(group(5), "lo").with_impairment(impaired).unwrap();
    for i in 0..1_000u16 {
        sender.send(&i.to_be_bytes()).await.unwrap();
    }
    let (mut received, mut runs, mut last) = (0u64, 0, None);
    while let Some(datagram) = next(&mut receiver).await {
        let number = u16::from_be_bytes(datagram.try_into().unwrap());
        runs += u32::from(last.is_some_and(|last| number != last + 1));
        (received, last) = (received + 1, Some(number));
    }
    assert_eq!(received + receiver.dropped(), 1_000);
    // Back to back they are a millisecond apart at the least: some six bursts of fifty, and never hundreds of single losses.
    assert!(receiver.dropped() > 0 && runs < 60, "{} lost in {runs} runs", receiver.dropped());
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    for bad in ["10.0.0.1:7000", "239.1.1.1:0", "[fd00::1]:7000", "[ff02::1%3]:7000"] {
        let bad: SocketAddr = bad.parse().unwrap();
        assert!(matches!(Sender::open(bad, &SendOptions::default()), Err(MulticastError::Address { .. })));
        assert!(matches!(Receiver::open(bad, &ReceiveOptions::default()), Err(MulticastError::Address { .. })));
    }
    let nowhere = SendOptions { interface: on("nosuch0"), ..SendOptions::default() };
    let error = Sender::open(group(4), &nowhere).unwrap_err().to_string();
    assert!(error.contains("nosuch0") && error.contains("no such interface"), "{error}");
    let much = SendOptions { interface: on("lo"), dscp: 64, ..SendOptions::default() };
    assert!(matches!(Sender::open(group(4), &much), Err(MulticastError::Dscp(64))));
    let loss = receiver(group(4), "lo").with_impairment(Impairment { loss: 1.5, burst_ms: 0, seed: 0 });
    assert!(matches!(loss, Err(MulticastError::Loss(_))));
}
