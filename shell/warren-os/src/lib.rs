//! An operating system: TUN, addresses, routes, change watching; the helper's two ends
