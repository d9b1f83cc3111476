//! A small crowd at a server in this process, so that the bench does not rot; and its own faults.

mod small;
