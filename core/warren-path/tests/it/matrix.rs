//! The golden table: which pairs of routers allow a direct path. It equals what runs and what the simulated internet says
//! must be possible.

use crate::world::{RouterKind, World};

const TABLE: &str = include_str!("../nat_matrix.txt");

/// The table as text: one row a router of the node that speaks first, one column a router of the other.
fn render(cell: impl Fn(RouterKind, RouterKind) -> bool) -> String {
    let mut text = format!("{:14}", "");
    for column in RouterKind::ALL {
        text += &format!(" {:>14}", column.name());
    }
    for row in RouterKind::ALL {
        text += &format!("\n{:14}", row.name());
        for column in RouterKind::ALL {
            text += &format!(" {:>14}", if cell(row, column) { "direct" } else { "relay" });
        }
    }
    text + "\n"
}

fn golden() -> String {
    TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_table_is_what_the_simulated_internet_allows() {
    let possible = render(|a, b| {
        let (world, a, b) = World::pair(a, b);
        world.internet.direct_path_possible(a, b)
    });
    assert_eq!(possible, golden(), "\n{possible}");
}

#[test]
fn every_pair_of_routers_ends_with_the_path_of_the_table() {
    let reached = render(|a, b| {
        let (mut world, a, b) = World::pair(a, b);
        world.talk(a, b, 12_000);
        let [there, back] = [world.status(a, b), world.status(b, a)];
        assert_eq!(there.trusted, back.trusted, "both or neither: {there:?} {back:?}");
        assert!(world.at(a).direct + world.at(a).relayed > 50, "data flows in any case");
        there.trusted
    });
    assert_eq!(reached, golden(), "\n{reached}");
}
