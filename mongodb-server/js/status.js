// What the cluster is like, for a reader; ends with an error if something is amiss.

const amiss = [];

function row(...cells) {
  print(cells.map((cell, index) => String(cell).padEnd([12, 12, 10][index] || 0)).join(" ").trimEnd());
}

function rowOf(address, describe) {
  const name = address.split(":")[0];
  try {
    const server = open(address, "backup");
    row(name, describe(server), server.adminCommand({ buildInfo: 1 }).version);
  } catch (error) {
    row(name, "down", error.message);
    amiss.push(name);
  }
}

row("SERVER", "STATE", "RELEASE");
for (const set of Object.keys(cluster.sets)) {
  let primaries = 0;
  for (const address of cluster.sets[set]) {
    rowOf(address, (server) => {
      const hello = server.adminCommand({ hello: 1 });
      primaries += hello.isWritablePrimary ? 1 : 0;
      if (!hello.isWritablePrimary && !hello.secondary) {
        amiss.push(address);
      }
      return hello.isWritablePrimary ? "primary" : hello.secondary ? "secondary" : "recovering";
    });
  }
  if (primaries !== 1) {
    amiss.push(`${set}, which has no primary`);
  }
}
for (const address of cluster.routers) {
  rowOf(address, () => "router");
}

for (const address of cluster.routers) {
  try {
    const server = open(address, "backup");
    const balancer = server.adminCommand({ balancerStatus: 1 });
    print(`\nThe balancer is ${balancer.mode === "off" ? "off" : "on"}.`);
    for (const shard of server.adminCommand({ listShards: 1 }).shards) {
      print(`${shard._id} is in the zones: ${(shard.tags || []).join(", ") || "none"}`);
    }
    const ranges = findInConfig(server, "tags", {});
    for (const collection of findInConfig(server, "collections", {})) {
      if (collection._id.startsWith(`${cluster.database}.`)) {
        const zone = ranges.filter((range) => range.ns === collection._id).map((range) => range.tag);
        print(`${collection._id} by ${JSON.stringify(collection.key)}, zone ${zone.join(", ") || "none: see zones.sh"}`);
      }
    }
    break;
  } catch (error) {
    // The other router may tell; that this one does not is in its row.
  }
}

if (amiss.length > 0) {
  throw new Error(`amiss: ${amiss.join("; ")}`);
}
