// Before every script. `cluster` and `task` are what lib/mongosh.sh tells it.

const CONNECT_MS = 2000;
const PAUSE_MS = 500;
const UNAUTHORIZED = 13;
const AUTHENTICATION_FAILED = 18;

const deadline = Date.now() + cluster.waitSeconds * 1000;

// The server's admin database, as that user or as nobody.
function open(address, user) {
  const who = user ? `${user}:${cluster.passwords[user]}@` : "";
  return connect(
    `mongodb://${who}${address}/admin?authSource=admin&directConnection=true` +
      `&serverSelectionTimeoutMS=${CONNECT_MS}&connectTimeoutMS=${CONNECT_MS}`
  );
}

// What attempt() returns, as soon as that is something. Errors are repeated until then, but for those of a wrong password.
function waitFor(what, attempt) {
  let problem = "";
  for (;;) {
    try {
      const found = attempt();
      if (found) {
        return found;
      }
      problem = "";
    } catch (error) {
      if (error.code === AUTHENTICATION_FAILED || error.code === UNAUTHORIZED) {
        throw error;
      }
      problem = `: ${error.message}`;
    }
    if (Date.now() >= deadline) {
      throw new Error(`${what}: not within ${cluster.waitSeconds} s${problem}`);
    }
    sleep(PAUSE_MS);
  }
}

// All that a query finds in a collection of the database config, on a router; there are a few dozen at most.
function findInConfig(router, collection, filter) {
  const command = { find: collection, filter: filter, batchSize: 10000 };
  return router.getSiblingDB("config").runCommand(command).cursor.firstBatch;
}

// The address of a set's primary, once its members have elected one.
function primaryOf(set) {
  return waitFor(`${set}: a primary`, () => {
    for (const address of cluster.sets[set]) {
      try {
        if (open(address).adminCommand({ hello: 1 }).isWritablePrimary) {
          return address;
        }
      } catch (error) {
        // A member that is away; another may be primary.
      }
    }
    return null;
  });
}

// A router that answers, as that user.
function anyRouter(user) {
  return waitFor("a router answers", () => {
    for (const address of cluster.routers) {
      try {
        return open(address, user);
      } catch (error) {
        if (error.code === AUTHENTICATION_FAILED) {
          throw error;
        }
      }
    }
    return null;
  });
}
