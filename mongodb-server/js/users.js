// The users. On the primary of task.set: root, who is made from its loopback as long as there is nobody, and backup on a
// shard. A user that is made through a router is the cluster's and lies on the config servers; a shard's are its own.

const DURABLE = { w: "majority", wtimeout: 30000 };

const ROLES = {
  // Looks at the balancer, stops and starts it; balancerStart and balancerStop need these of config.settings.
  balancer: [{ resource: { db: "config", collection: "settings" }, actions: ["find", "update"] }],
  // main-api shards its collections by itself when it starts; enableSharding of a database allows that for all in it.
  sharding: [{ resource: { db: cluster.database, collection: "" }, actions: ["enableSharding"] }],
};

function ensureRoot(address) {
  const roles = [{ role: "root", db: "admin" }];
  try {
    open(address, "root").adminCommand({ connectionStatus: 1 });
  } catch (error) {
    if (error.code !== AUTHENTICATION_FAILED) {
      throw error;
    }
    try {
      open(address).adminCommand({ createUser: "root", pwd: cluster.passwords.root, roles: roles, writeConcern: DURABLE });
    } catch (refusal) {
      throw refusal.code === UNAUTHORIZED
        ? new Error(`${task.set} has users, and root's password is another than the one in the file root.password`)
        : refusal;
    }
  }
}

function ensureRole(admin, name) {
  const there = admin.adminCommand({ rolesInfo: { role: name, db: "admin" } }).roles.length > 0;
  const command = there ? { updateRole: name } : { createRole: name };
  admin.adminCommand({ ...command, privileges: ROLES[name], roles: [], writeConcern: DURABLE });
}

// Makes the user, or gives it the password of the file and these roles.
function ensureUser(admin, name, roles) {
  const there = admin.adminCommand({ usersInfo: { user: name, db: "admin" } }).users.length > 0;
  const command = there ? { updateUser: name } : { createUser: name };
  admin.adminCommand({ ...command, pwd: cluster.passwords[name], roles: roles, writeConcern: DURABLE });
}

function ensureUsersOfSet() {
  const address = `127.0.0.1:${cluster.sets[task.set][0].split(":")[1]}`;
  ensureRoot(address);
  if (task.set !== "config") {
    ensureUser(open(address, "root"), "backup", [{ role: "clusterMonitor", db: "admin" }]);
  }
}

function ensureUsersOfCluster(router) {
  ensureRole(router, "balancer");
  ensureRole(router, "sharding");
  ensureUser(router, "backup", [
    { role: "clusterMonitor", db: "admin" },
    { role: "balancer", db: "admin" },
  ]);
  ensureUser(router, "main-api", [
    { role: "readWrite", db: cluster.database },
    { role: "sharding", db: "admin" },
  ]);
}

if (task.set) {
  ensureUsersOfSet();
}
