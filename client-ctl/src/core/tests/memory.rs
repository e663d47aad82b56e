//! What is kept of rekey messages is bounded for all groups together, and nobody but a key server can fill it.

use super::*;

const KIB: usize = 1 << 10;

/// A member of these groups, with a key server for each.
fn member_of(names: &[&str]) -> (Client, Vec<Server>) {
    let mut client = Client::new(names);
    client.register();
    let mut servers: Vec<Server> = (1..).zip(names).map(|(id, _)| Server::new(id, 4, 9)).collect();
    servers.iter_mut().for_each(|server| drop(server.change(Reason::Join, &[Change::Join(ME)])));
    client.answer(servers.iter_mut().map(Server::granted).collect());
    (client, servers)
}

/// Signed units of a message for the epoch so many after the present one.
fn ahead(server: &Server, epochs: u64, octets: usize) -> Vec<Vec<u8>> {
    let header = EpochHeader {
        suite: Suite::Aes256,
        group: server.context.group,
        incarnation: server.context.incarnation,
        term: server.context.term,
        epoch: server.context.epoch + epochs,
        previous: HeaderHash([9; 32]),
    };
    cut(&header, &vec![1; octets], (0, 1), (&server.key, &server.tag))
}

fn given_up(client: &Client) -> Vec<u64> {
    client.core.status().iter().map(|group| group.counters.messages_given_up).collect()
}

#[test]
fn all_groups_together_keep_so_much_and_no_more() {
    let (mut client, servers) = member_of(&["a", "b", "c"]);
    client.core.most_octets = 256 * KIB;
    // Half a block is missing at the end of each: nothing is ever whole.
    let send = |client: &mut Client, at: usize, epochs: u64| {
        let units = ahead(&servers[at], epochs, 64 * KIB);
        let incomplete =
            units.len() - usize::from(Layout::new(64 * KIB, &RepairScheme::default()).unwrap().blocks()[0].total());
        client.datagrams(&units[..incomplete]);
        assert!(client.core.octets_kept() <= 256 * KIB, "{}", client.core.octets_kept());
        units
    };
    for epochs in 2..=4 {
        send(&mut client, 0, epochs);
    }
    send(&mut client, 1, 2);
    assert_eq!(given_up(&client), [0, 0, 0]);
    let before = client.core.octets_kept();
    // The third group's first message: of the group that keeps most, the oldest goes.
    let units = send(&mut client, 2, 2);
    assert_eq!(given_up(&client), [1, 0, 0]);
    assert!(client.core.octets_kept() <= before);
    // The new one was kept: its last units make it whole. It makes no sense, which the key server has to answer for.
    client.datagrams(&units);
    let malformed =
        |client: &Client| client.core.status().iter().map(|g| g.counters.units_malformed).collect::<Vec<_>>();
    assert_eq!(malformed(&client), [0, 0, 1]);
    // The newest of the first group, too.
    let newest = ahead(&servers[0], 4, 64 * KIB);
    client.datagrams(&newest);
    assert_eq!(malformed(&client), [1, 0, 1]);
    assert_eq!(given_up(&client), [1, 0, 0]);
}

#[test]
fn what_strangers_and_members_send_displaces_nothing() {
    let (mut client, servers) = member_of(&["a", "b"]);
    let genuine = ahead(&servers[0], 2, 64 * KIB);
    client.datagrams(&genuine[..100]);
    let kept = client.core.octets_kept();
    assert!(kept > 0);
    client.core.most_octets = kept;
    let stranger = SigningKey::from_seed(&[66; 32]).unwrap();
    for server in &servers {
        for epochs in 1..=40 {
            let header = EpochHeader { epoch: server.context.epoch + epochs, ..header_of(&genuine[0], server) };
            // A member knows the tag key.
            let flood = cut(&header, &vec![2; 40 * KIB], (0, 1), (&stranger, &server.tag));
            client.datagrams(&flood);
        }
    }
    assert_eq!((client.core.octets_kept(), given_up(&client)), (kept, vec![0, 0]));
}

fn header_of(datagram: &[u8], server: &Server) -> EpochHeader {
    let unit = Unit::decode(datagram).unwrap();
    EpochHeader { group: server.context.group, previous: server.hash, ..unit.header.epoch }
}

#[test]
fn whole_messages_are_given_up_too_and_asked_for() {
    let (mut client, mut server) = Client::member(4, 9);
    client.core.most_octets = 0;
    drop(server.refresh());
    // The first is missing; the others are whole and wait for it.
    client.datagrams(&server.refresh());
    client.datagrams(&server.refresh());
    assert_eq!((client.core.octets_kept(), given_up(&client)), (0, vec![2]));
    assert!(client.resyncs_within(WAIT_MS.into()));
    client.answer(vec![server.granted()]);
    client.agrees(&server);
    // What continues the present epoch waits for nobody.
    client.datagrams(&server.refresh());
    client.agrees(&server);
}
