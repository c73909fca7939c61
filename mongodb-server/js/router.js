// Waits until the router task.router serves, with the cluster's users behind it.

const address = cluster.routers.find((one) => one.startsWith(`${task.router}:`));
waitFor(`${address} answers`, () => open(address, "root").adminCommand({ listShards: 1 }).ok);
