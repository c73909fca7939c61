// Through a router: which shards keep which collections, as ZONES says. Only of collections that main-api has sharded: their
// keys are read from the cluster, and are written nowhere a second time.
//
// A key is a hash there, so a range of it means nothing to a reader: a zone has all of a collection, from MinKey to MaxKey.

function wantedZones() {
  return cluster.zones.split(" ").filter(Boolean).map((text) => {
    const [name, shards, collections] = text.split(":");
    return { name: name, shards: shards.split(","), collections: collections.split(",") };
  });
}

function zoneOf(collection, zones) {
  const named = zones.find((zone) => zone.collections.includes(collection));
  return named || zones.find((zone) => zone.collections.includes("*"));
}

function shardedCollections(router) {
  const prefix = `${cluster.database}.`;
  // Since 8.0 a collection that was moved but not sharded is listed as well, and has no key that zones could hold on to.
  return findInConfig(router, "collections", {})
    .filter((entry) => entry._id.startsWith(prefix) && entry.key && !entry.unsplittable)
    .map((entry) => ({ namespace: entry._id, name: entry._id.slice(prefix.length), key: entry.key }));
}

function ofWholeKey(key, value) {
  const bound = {};
  for (const field of Object.keys(key)) {
    bound[field] = value;
  }
  return bound;
}

function ensureZone(router, collection, zone) {
  const ranges = findInConfig(router, "tags", { ns: collection.namespace });
  const wanted = zone ? zone.name : null;
  if (wanted ? ranges.length === 1 && ranges[0].tag === wanted : ranges.length === 0) {
    return;
  }
  for (const range of ranges) {
    router.adminCommand({ updateZoneKeyRange: collection.namespace, min: range.min, max: range.max, zone: null });
  }
  if (wanted) {
    router.adminCommand({
      updateZoneKeyRange: collection.namespace,
      min: ofWholeKey(collection.key, MinKey()),
      max: ofWholeKey(collection.key, MaxKey()),
      zone: wanted,
    });
  }
  print(`${collection.namespace} is kept by ${wanted ? `the zone ${wanted}` : "any shard"}`);
}

function ensureZones(router) {
  const zones = wantedZones();
  const shards = router.adminCommand({ listShards: 1 }).shards;
  // Shards join their zones before ranges need them, and leave when none does: a zone with ranges must have a shard.
  for (const zone of zones) {
    for (const shard of zone.shards) {
      if (!(shards.find((one) => one._id === shard).tags || []).includes(zone.name)) {
        router.adminCommand({ addShardToZone: shard, zone: zone.name });
        print(`${shard} is in the zone ${zone.name} now`);
      }
    }
  }
  for (const collection of shardedCollections(router)) {
    ensureZone(router, collection, zoneOf(collection.name, zones));
  }
  for (const shard of shards) {
    for (const tag of shard.tags || []) {
      if (!zones.some((zone) => zone.name === tag && zone.shards.includes(shard._id))) {
        router.adminCommand({ removeShardFromZone: shard._id, zone: tag });
        print(`${shard._id} has left the zone ${tag}`);
      }
    }
  }
}

ensureZones(anyRouter("root"));
