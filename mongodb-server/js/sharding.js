// Through a router: the shards, the cluster's users, and the database of main-api. After users.js.

function ensureShards(router) {
  const present = router.adminCommand({ listShards: 1 }).shards.map((shard) => shard._id);
  for (const set of Object.keys(cluster.sets)) {
    if (set !== "config" && !present.includes(set)) {
      router.adminCommand({ addShard: `${set}/${cluster.sets[set].join(",")}`, name: set });
      print(`${set} is a shard now`);
    }
  }
}

for (const address of cluster.routers) {
  waitFor(`${address} answers`, () => open(address).adminCommand({ hello: 1 }).msg === "isdbgrid");
}
const shardingRouter = anyRouter("root");
ensureShards(shardingRouter);
ensureUsersOfCluster(shardingRouter);
// What sh.enableSharding() sends. The collections' keys are main-api's: it sends shardCollection when it starts.
shardingRouter.adminCommand({ enableSharding: cluster.database });
