//! A simulated internet: clock, links, NATs, firewalls
