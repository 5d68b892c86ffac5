// Calls of the service. Addresses are relative, so that the page works below any path.

const BUSY_TRIES = 3;

// `passing` tells whether the same call may work later.
export class ServiceError extends Error {
  constructor(message, passing) {
    super(message);
    this.passing = passing;
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

// A busy service (503 with Retry-After) is asked again after the time that it names.
async function call(path, options) {
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      response = await fetch(path, { headers: { Accept: "application/json" }, ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError("The service does not answer. Is it still running?", true);
    }
    const after = Number(response.headers.get("Retry-After"));
    if (response.status === 503 && after > 0 && after <= 10 && tries < BUSY_TRIES) {
      await pause(after, options?.signal);
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer !== null) return answer;
    const message = answer?.error?.message ?? `The service answered ${response.status}.`;
    throw new ServiceError(message, response.status >= 500);
  }
}

export const info = () => call("v1/info");

export const randomUser = (signal) => call("v1/users/random", { signal });

export async function findItems(words, limit, signal) {
  const query = new URLSearchParams({ q: words, limit });
  return (await call(`v1/items?${query}`, { signal })).items;
}

export async function recommend(request, signal) {
  const answer = await call("v1/recommend", {
    method: "POST",
    headers: { Accept: "application/json", "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  return answer.results[0];
}
