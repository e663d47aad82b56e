//! Signs of life, and what becomes of a member whose admission has ended.

use super::*;
use protocol::request::{Denial, Losses};

/// A member with a lease of 60 s, which hears a beacon in time.
fn member() -> (Client, Server) {
    let mut server = Server::new(1, 4, 9);
    server.lease_s = 60;
    let mut client = Client::new(&["g"]);
    client.register();
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    (client, server)
}

/// Time passes with beacons; requests that are made meanwhile.
fn pass(client: &mut Client, server: &mut Server, seconds: u64) -> Vec<Operations> {
    let before = client.requests.len();
    for _ in 0..seconds {
        let beacon = server.beacon();
        client.handle(Input::Datagram(&beacon));
        client.pass(1_000);
    }
    client.requests[before..].iter().map(|request| request.operations.clone()).collect()
}

fn sign() -> Operations {
    Operations::Reports(vec![("g".into(), Losses::default())])
}

#[test]
fn a_member_with_a_lease_shows_that_it_is_there() {
    let (mut client, mut server) = member();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let before = client.now;
        while pass(&mut client, &mut server, 1).is_empty() {
            assert!(client.now < before + ms(22_000), "silent for longer than a third of the lease");
        }
        assert_eq!(client.requests.last().unwrap().operations, sign());
        pauses.push((client.now - before).as_secs());
        client.answer(vec![Outcome::Noted]);
    }
    pauses.sort_unstable();
    assert!(pauses[0] >= 15 && pauses[9] <= 21 && pauses[0] != pauses[9], "spread: {pauses:?}");
    // Without an answer it is tried again, many times within the lease.
    client.pass(1);
    let failures = pass(&mut client, &mut server, 20).len();
    assert_eq!(failures, 1);
    for _ in 0..3 {
        let id = client.requests.last().unwrap().id;
        client.handle(Input::RequestFailed { id, refused: false });
        assert_eq!(pass(&mut client, &mut server, 4), [sign()]);
    }
    // It waits for no turn, and nothing waits for it.
    let id = client.requests.last().unwrap().id;
    client.handle(Input::RequestLater { id, after: ms(60_000) });
    assert_eq!(pass(&mut client, &mut server, 4), [sign()]);
    // A standby's answer is no sign that was heard.
    client.answer(vec![Outcome::Denied(Denial::Standby)]);
    assert_eq!(pass(&mut client, &mut server, 4), [sign()]);
    client.answer(vec![Outcome::Noted]);
    assert_eq!(pass(&mut client, &mut server, 14), []);
}

#[test]
fn without_a_lease_nobody_says_anything() {
    let (mut client, mut server) = Client::member(4, 9);
    assert_eq!(pass(&mut client, &mut server, 600), []);
}

#[test]
fn a_member_that_was_taken_for_gone_comes_back() {
    let (mut client, mut server) = member();
    pass(&mut client, &mut server, 21);
    client.answer(vec![Outcome::Denied(Denial::Lapsed)]);
    assert_eq!(client.status(), Status::Joining);
    let feed = &client.feeds["g"];
    assert!(feed.keys.is_empty() && feed.role.is_none() && feed.detail.contains("lease"), "{}", feed.detail);
    assert!(client.has_event(|event| matches!(event, Event::Evicted { denial: Denial::Lapsed, .. })));
    client.pass(1_000);
    assert!(matches!(client.requests.last().unwrap().operations, Operations::Changes(_)));
    server.change(Reason::Evict, &[Change::Leave(ME)]);
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    assert_eq!(client.status(), Status::Member);
    client.agrees(&server);
}

#[test]
fn an_ended_credential_is_replaced_by_another_registration() {
    let (mut client, mut server) = member();
    pass(&mut client, &mut server, 21);
    let registers = client.registers;
    client.answer(vec![Outcome::Denied(Denial::CredentialEnded)]);
    assert_eq!(client.status(), Status::Joining);
    client.pass(1_000);
    assert_eq!(client.registers, registers + 1);
    // It was the same credential: again, less and less often.
    for pause in [1_000, 2_000, 4_000] {
        client.register();
        client.answer(vec![Outcome::Denied(Denial::CredentialEnded)]);
        let before = client.registers;
        client.pass(pause / 8);
        assert_eq!(client.registers, before);
        client.pass(pause);
        assert_eq!(client.registers, before + 1);
    }
    client.register();
    server.change(Reason::Evict, &[Change::Leave(ME)]);
    server.change(Reason::Join, &[Change::Join(ME)]);
    client.answer(vec![server.granted()]);
    assert_eq!(client.status(), Status::Member);
}

#[test]
fn what_an_operator_or_the_policy_ends_is_final() {
    for denial in [Denial::Evicted, Denial::Policy, Denial::MembershipEnded, Denial::Revoked, Denial::NotMember] {
        let (mut client, mut server) = member();
        pass(&mut client, &mut server, 21);
        client.answer(vec![Outcome::Denied(denial)]);
        assert_eq!(client.status(), Status::Evicted);
        assert_eq!(client.feeds["g"].detail, denial.to_string());
        assert_eq!(pass(&mut client, &mut server, 600), []);
    }
}

#[test]
fn another_credential_is_registered_beside_the_one_that_serves() {
    let (mut client, mut server) = member();
    let before = client.registers;
    client.handle(Input::Credential);
    pass(&mut client, &mut server, 10);
    assert_eq!(client.registers, before + 1);
    // No registrar answers, or refuses for good: the registration that there is serves on, and it is tried again.
    client.handle(Input::RegistrationFailed { retry_after: None, is_final: true });
    assert_eq!((client.core.registration(), client.status()), (Some((ME, 1)), Status::Member));
    pass(&mut client, &mut server, 3);
    assert_eq!(client.registers, before + 2);
    pass(&mut client, &mut server, 100);
    assert!(client.registers > before + 2, "no answer within a minute is a failure too");
    // The new key is proved at once.
    let asked = client.requests.len();
    client.handle(Input::Registered { client: ME, registration: 2 });
    pass(&mut client, &mut server, 10);
    assert_eq!(client.core.registration(), Some((ME, 2)));
    assert!(client.requests.len() > asked);
    // Once more than once is once: spread, and each counts from the last.
    let before = client.registers;
    (0..5).for_each(|_| client.handle(Input::Credential));
    pass(&mut client, &mut server, 10);
    assert_eq!(client.registers, before + 1);
}
