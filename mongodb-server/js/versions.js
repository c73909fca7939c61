// Prints the feature compatibility version of the config servers and every shard, and the release of every server, or
// "unknown" of one that does not answer.

for (const set of Object.keys(cluster.sets)) {
  const primary = open(primaryOf(set), "backup");
  const feature = primary.adminCommand({ getParameter: 1, featureCompatibilityVersion: 1 }).featureCompatibilityVersion;
  print(`feature ${set} ${feature.version}${feature.targetVersion ? ` to ${feature.targetVersion}` : ""}`);
}
for (const address of [...cluster.routers, ...Object.values(cluster.sets).flat()]) {
  let release = "unknown";
  try {
    release = open(address).adminCommand({ buildInfo: 1 }).version;
  } catch (error) {
    // An upgrade that was killed has taken it away, and the next brings it back.
  }
  print(`release ${address.split(":")[0]} ${release}`);
}
